# What a program sees of its container, in sections that begin with two hashes. $P is the process looked at: this
# shell, which is process 1 of a pid namespace of its own. probe() puts the host's namespaces in front, as
# HOST_<name>, and what one case looks at besides behind.
PATH=/bin P=/proc/$$ export PATH
echo "## mountinfo"
awk '{ n = split($0, half, " - "); split(half[2], s, " "); tags = "";
       for (i = 7; $i != "-"; i++) { t = $i; sub(":.*", "", t); tags = tags " " t }
       print $4, $5, $6, "tags:" tags, s[1], s[2], s[3] }' $P/mountinfo | sort -s -k 2,2
echo "## status"
grep -E '^(Umask|Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Sig(Ign|Blk|Cgt)|ShdPnd|Cpus_allowed_list|Mems_allowed_list|THP_enabled|Speculation|CoreDumping)' $P/status
if [ $$ = 1 ]; then grep -E '^NS(tgid|pid|pgid|sid)' $P/status; fi
echo "## limits"
cat $P/limits
echo "## environment"
tr '\0' '\n' < $P/environ
echo "## descriptors"
for fd in $P/fd/*; do echo "${fd##*/} $(readlink $fd | sed 's/:[[][0-9]*/:[/') $(grep flags $P/fdinfo/${fd##*/})"; done
echo "## cgroup"
cat $P/cgroup
# Cgroups of other tests come and go.
ls -d /sys/fs/cgroup/* 2>/dev/null | grep -v davit
echo "## names"
hostname; cat /proc/sys/kernel/domainname
cat $P/comm; tr '\0' ' ' < $P/cmdline | head -n 1
readlink $P/exe $P/cwd $P/root
echo "## process"
# Relations and not numbers: pids differ from run to run where the namespace is shared.
awk -v pid=$$ '{ sub(/.*\) /, ""); print "ppid", ($2 == 0 ? "none" : "outside"), "pgrp", ($3 == pid ? "own" : "other"),
    "session", ($4 == pid ? "own" : "other"), "tty", $5, "priority", $16, "nice", $17, "rt", $38, "policy", $39 }' $P/stat
ionice -p $$
for f in oom_score_adj personality coredump_filter timerslack_ns setgroups uid_map gid_map loginuid sessionid \
    timens_offsets attr/current attr/exec attr/keycreate attr/sockcreate; do
  test -e $P/$f && echo "$f $(cat $P/$f 2>&1 | tr '\n' ';')"
done
awk 'NR == 1 { print "memory policy", $2 }' $P/numa_maps 2>&1
# Keyrings of all containers with this user are seen; $ID is this one's.
awk -v name="_ses.$ID:" '$9 == name { print "key", $5, $6, $7, $8, $9, $10 }' /proc/keys 2>/dev/null
echo "## namespaces"
for n in cgroup ipc mnt net pid time time_for_children user uts; do
  if [ "$(readlink $P/ns/$n)" = "$(eval echo \$HOST_$n)" ]; then echo "$n host"; else echo "$n other"; fi
done
echo "## devices"
find /dev | sort | while read -r f; do stat -c '%F %t:%T %a %u %g %N' "$f"; done
echo "## directories"
for d in / /proc /sys /dev /dev/pts /dev/shm /dev/mqueue /sys/fs/cgroup /tmp .; do stat -c '%n %a %u %g' $d; done
echo "## network"
awk -F: 'NR > 2 { print $1 }' /proc/net/dev
cat /sys/class/net/lo/flags 2>/dev/null
echo "## sysctls"
for f in net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range kernel/shm_rmid_forced kernel/msgmax \
    fs/mqueue/msg_max net/ipv4/ip_forward user/max_net_namespaces; do
  echo "$f $(cat /proc/sys/$f 2>&1)"
done
