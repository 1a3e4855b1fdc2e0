"""The lab: real hosts (systemd, sshd, containerd, kubelet, kubeadm) on one machine, for trying and testing the collection."""
