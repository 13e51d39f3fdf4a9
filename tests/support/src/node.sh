# The first process of a host: pid 1 of its own PID namespace, in mount, network,
# UTS and IPC namespaces of its own. It ends with its standard input, and all
# processes of the host with it.
#
#   sh -c "$(cat node.sh)" node NAME STATE KEEP…
#
# STATE is a directory with the file hosts and the empty directory tmp; each KEEP
# stays visible where it is, even under /tmp.
set -eu
name=$1 state=$2
shift 2

hostname "$name"
mount -t proc proc /proc
ip link set lo up

# What a host has for itself, and another host must not see.
mount -t tmpfs -o mode=1777 tmpfs "$state/tmp"
for keep; do
	case $keep in
	/tmp/*)
		mkdir -p "$state$keep"
		mount --bind "$keep" "$state$keep"
		;;
	esac
done
mount --rbind "$state/tmp" /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run
mount --bind "$state/hosts" /etc/hosts

# Waiting, rather than being cat, so that orphans are reaped.
exec 3<&0 </dev/null
cat <&3 >/dev/null &
echo ready
exec >/dev/null
wait $!
