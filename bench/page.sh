#!/usr/bin/env bash
# The page "Set up a High Availability etcd Cluster with kubeadm" as a script, step by step as it stands there:
# the yardstick of bench/bench.py. Reaches the hosts by ssh and scp from the controller, one after the other.
#
# usage: page.sh SSH_CONFIG KUBERNETES_VERSION NAME=ADDRESS NAME=ADDRESS NAME=ADDRESS
#
# Differences, each needed to get through: the drop-in directory is made, the version is pinned (the page looks it up
# on the internet), failCgroupV1 is switched off, and configurations go to a directory under $work instead of /tmp.
set -euo pipefail
config=$1 version=$2
shift 2
names=() addresses=()
for pair in "$@"; do
  names+=("${pair%%=*}")
  addresses+=("${pair#*=}")
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
on() { ssh -F "$config" "$@"; }

echo "page: step 1, kubelet"
for host in "${addresses[@]}"; do
  on "$host" 'bash -s' <<'REMOTE'
mkdir -p /etc/systemd/system/kubelet.service.d
cat > /etc/systemd/system/kubelet.service.d/kubelet.conf <<CONF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous:
    enabled: false
  webhook:
    enabled: false
authorization:
  mode: AlwaysAllow
cgroupDriver: systemd
address: 127.0.0.1
containerRuntimeEndpoint: unix:///var/run/containerd/containerd.sock
staticPodPath: /etc/kubernetes/manifests
failCgroupV1: false
CONF
cat > /etc/systemd/system/kubelet.service.d/20-etcd-service-manager.conf <<CONF
[Service]
ExecStart=
ExecStart=/usr/bin/kubelet --config=/etc/systemd/system/kubelet.service.d/kubelet.conf
Restart=always
CONF
systemctl daemon-reload
systemctl restart kubelet
REMOTE
done

echo "page: step 2, kubeadmcfg.yaml"
cluster=""
for i in "${!names[@]}"; do cluster+="${cluster:+,}${names[$i]}=https://${addresses[$i]}:2380"; done
for i in "${!names[@]}"; do
  host=${addresses[$i]} name=${names[$i]}
  mkdir -p "$work/$host"
  cat > "$work/$host/kubeadmcfg.yaml" <<CONF
---
apiVersion: "kubeadm.k8s.io/v1beta4"
kind: InitConfiguration
nodeRegistration:
    name: ${name}
localAPIEndpoint:
    advertiseAddress: ${host}
---
apiVersion: "kubeadm.k8s.io/v1beta4"
kind: ClusterConfiguration
kubernetesVersion: ${version}
etcd:
    local:
        serverCertSANs:
        - "${host}"
        peerCertSANs:
        - "${host}"
        extraArgs:
        - name: initial-cluster
          value: ${cluster}
        - name: initial-cluster-state
          value: new
        - name: name
          value: ${name}
        - name: listen-peer-urls
          value: https://${host}:2380
        - name: listen-client-urls
          value: https://${host}:2379
        - name: advertise-client-urls
          value: https://${host}:2379
        - name: initial-advertise-peer-urls
          value: https://${host}:2380
CONF
done

echo "page: steps 3 and 4, CA and certificates on the first host"
first=${addresses[0]}
scp -q -F "$config" -r "$work" "$first:/root/page"
on "$first" "kubeadm init phase certs etcd-ca --kubernetes-version $version" > /dev/null
for ((i = ${#addresses[@]} - 1; i >= 0; i--)); do
  host=${addresses[$i]}
  for cert in etcd-server etcd-peer etcd-healthcheck-client apiserver-etcd-client; do
    on "$first" "kubeadm init phase certs $cert --config=/root/page/$host/kubeadmcfg.yaml" > /dev/null
  done
  if ((i > 0)); then
    on "$first" "cp -R /etc/kubernetes/pki /root/page/$host/ \
      && find /etc/kubernetes/pki -not -name ca.crt -not -name ca.key -type f -delete \
      && find /root/page/$host -name ca.key -type f -delete"
  fi
done

echo "page: step 5, copy to each member"
for host in "${addresses[@]:1}"; do
  scp -q -F "$config" -3 -r "$first:/root/page/$host" "$host:/root/page"
  on "$host" "chown -R root:root /root/page/pki && mkdir -p /etc/kubernetes && mv /root/page/pki /etc/kubernetes/"
done

echo "page: step 7, manifests"
on "$first" "kubeadm init phase etcd local --config=/root/page/$first/kubeadmcfg.yaml" > /dev/null
for host in "${addresses[@]:1}"; do
  on "$host" "kubeadm init phase etcd local --config=/root/page/kubeadmcfg.yaml" > /dev/null
done

echo "page: step 8, health"
for _ in $(seq 1 600); do
  ready=0
  for host in "${addresses[@]}"; do
    if on "$host" "curl -sf -m 2 http://127.0.0.1:2381/readyz || python3 -c 'import urllib.request as u; u.urlopen(\"http://127.0.0.1:2381/readyz\", timeout=2)'" > /dev/null 2>&1; then
      ready=$((ready + 1))
    else
      break
    fi
  done
  if ((ready == ${#addresses[@]})); then
    echo "page: $ready members ready"
    exit 0
  fi
  sleep 0.2
done
echo "page: not ready in time" >&2
exit 1
