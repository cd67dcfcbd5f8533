# What a program sees of its container, in sections that begin with two hashes. $P is the process looked at: this
# shell, which is process 1 of a pid namespace of its own. probe() puts the host's namespaces in front, as
# HOST_NS and HOST_<name>, and what one case looks at besides behind.
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
(cd $P/fd; stat -c %N * 2>/dev/null | sed 's/:[[][0-9]*/:[/'; cd $P/fdinfo; grep -s flags *)
echo "## cgroup"
cat $P/cgroup
# Not the directories: on pure v2 they are the host's other cgroups, on v1 mountinfo has them.
find /sys/fs/cgroup -maxdepth 1 ! -type d 2>/dev/null | sort
echo "## names"
hostname; cat /proc/sys/kernel/domainname
cat $P/comm; tr '\0' ' ' < $P/cmdline | head -n 1
(cd $P; stat -c %N exe cwd root)
echo "## process"
# Relations and not numbers: pids differ from run to run where the namespace is shared.
awk -v pid=$$ '{ sub(/.*\) /, ""); print "ppid", ($2 == 0 ? "none" : "outside"), "pgrp", ($3 == pid ? "own" : "other"),
    "session", ($4 == pid ? "own" : "other"), "tty", $5, "priority", $16, "nice", $17, "rt", $38, "policy", $39 }' $P/stat
ionice -p $$
(cd $P; grep -s '' oom_score_adj personality coredump_filter timerslack_ns setgroups uid_map gid_map loginuid \
    sessionid timens_offsets attr/*)
awk 'NR == 1 { print "memory policy", $2 }' $P/numa_maps 2>&1
# Keyrings of all containers with this user are seen; $ID is this one's.
awk -v name="_ses.$ID:" '$9 == name { print "key", $5, $6, $7, $8, $9, $10 }' /proc/keys 2>/dev/null
echo "## namespaces"
(cd $P/ns; stat -c %N cgroup ipc mnt net pid time time_for_children user uts) |
  awk -v host="$HOST_NS" '{ gsub("\x27", ""); print $1, index(host, $3) ? "host" : "other" }'
echo "## devices"
find /dev | sort | busybox xargs stat -c '%F %t:%T %a %u %g %N'
echo "## directories"
stat -c '%n %a %u %g' / /proc /sys /dev /dev/pts /dev/shm /dev/mqueue /sys/fs/cgroup /tmp .
echo "## network"
awk -F: 'NR > 2 { print $1 }' /proc/net/dev
cat /sys/class/net/lo/flags 2>/dev/null
echo "## sysctls"
(cd /proc/sys; grep -s '' net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range kernel/shm_rmid_forced \
    kernel/msgmax fs/mqueue/msg_max net/ipv4/ip_forward user/max_net_namespaces)
