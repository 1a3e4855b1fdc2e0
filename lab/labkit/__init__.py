"""The lab: real hosts on one machine, with systemd, sshd, containerd, kubelet and kubeadm."""
