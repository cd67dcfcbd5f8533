# What a program sees of its container, in sections that begin with two hashes.
# golden.rs puts the namespaces of the host in front, as HOST_<name>.
echo "## mountinfo"
awk '{ n = split($0, half, " - "); split(half[2], s, " "); tags = "";
       for (i = 7; $i != "-"; i++) { t = $i; sub(":.*", "", t); tags = tags " " t }
       print $4, $5, $6, "tags:" tags, s[1], s[2], s[3] }' /proc/self/mountinfo | sort -k 2
echo "## status"
grep -E '^(Umask|Uid|Gid|Groups|NStgid|NSpid|NSpgid|NSsid|Cap|NoNewPrivs|Seccomp|Sig(Ign|Blk|Cgt)|ShdPnd|Cpus_allowed_list|Mems_allowed_list|THP_enabled|Speculation|CoreDumping)' /proc/1/status
echo "## limits"
cat /proc/1/limits
echo "## environment"
tr '\0' '\n' < /proc/1/environ
echo "## descriptors"
for fd in /proc/1/fd/*; do echo "${fd##*/} $(readlink $fd | sed 's/call-.*[.]/call./; s/:[[][0-9]*/:[/') $(grep flags /proc/1/fdinfo/${fd##*/})"; done
echo "## cgroup"
cat /proc/self/cgroup
ls -d /sys/fs/cgroup/* 2>/dev/null
echo "## names"
hostname; cat /proc/sys/kernel/domainname
cat /proc/1/comm; tr '\0' ' ' < /proc/1/cmdline; echo
readlink /proc/1/exe; readlink /proc/1/cwd; readlink /proc/1/root
echo "## process"
awk '{ sub(/.*\) /, ""); print "ppid", $2, "pgrp", $3, "session", $4, "tty", $5, "nice", $17, "policy", $39 }' /proc/1/stat
for f in oom_score_adj personality coredump_filter timerslack_ns setgroups uid_map gid_map loginuid sessionid; do
  test -e /proc/1/$f && echo "$f $(cat /proc/1/$f 2>&1)"
done
echo "## namespaces"
for n in cgroup ipc mnt net pid time user uts; do
  if [ "$(readlink /proc/1/ns/$n)" = "$(eval echo \$HOST_$n)" ]; then echo "$n host"; else echo "$n new"; fi
done
echo "## devices"
for f in $(find /dev | sort); do stat -c '%n %F %t:%T %a %u %g' $f; readlink $f; done
echo "## directories"
for d in / /proc /sys /dev /dev/pts /dev/shm /dev/mqueue /sys/fs/cgroup /tmp; do stat -c '%n %a %u %g' $d; done
echo "## network"
cat /proc/net/dev | cut -d: -f1 | tail -n +3
cat /sys/class/net/lo/flags 2>/dev/null
echo "## sysctls"
cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range 2>/dev/null
echo "## end"
