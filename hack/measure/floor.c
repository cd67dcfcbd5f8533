// floor: what the kernel alone asks for one default container, as a yardstick for runtimes. No configuration, no
// state, no checks: a cgroup, one clone3 into fresh namespaces, the mounts and devices of the default bundle, masked
// and read-only paths, pivot_root, no_new_privs, execve, wait, and the cgroup removed.
// usage: floor ROOTFS TIMES PROGRAM [CGROUP2_MOUNT]
// Prints the median and the least microseconds of TIMES containers.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
  fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
  _exit(9);
}

static void must(long result, const char *what) {
  if (result < 0) die(what);
}

enum { FLAGS = MS_NOSUID | MS_NOEXEC | MS_NODEV };

static const struct { const char *type, *at, *options; unsigned long flags; } mounts[] = {
  {"proc", "proc", 0, 0},
  {"tmpfs", "dev", "mode=755,size=65536k", MS_NOSUID | MS_STRICTATIME},
  {"devpts", "dev/pts", "newinstance,ptmxmode=0666,mode=0620,gid=5", MS_NOSUID | MS_NOEXEC},
  {"tmpfs", "dev/shm", "mode=1777,size=65536k", FLAGS},
  {"mqueue", "dev/mqueue", 0, FLAGS},
  {"sysfs", "sys", 0, FLAGS | MS_RDONLY},
  {"cgroup2", "sys/fs/cgroup", 0, FLAGS | MS_RDONLY},
};
static const struct { const char *path; unsigned major, minor; } devices[] = {
  {"dev/null", 1, 3}, {"dev/zero", 1, 5}, {"dev/full", 1, 7},
  {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0},
};
static const char *links[][2] = {
  {"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
  {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"},
};
static const char *masked[] = {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
  "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"};
static const char *read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};

#define EACH(i, list) for (size_t i = 0; i < sizeof list / sizeof *list; i++)

static void fill_root(void) {
  EACH(i, mounts) {
    // The mount points that lie on the tmpfs of /dev.
    if (!strncmp(mounts[i].at, "dev/", 4)) must(mkdir(mounts[i].at, 0755), mounts[i].at);
    must(mount(mounts[i].type, mounts[i].at, mounts[i].type, mounts[i].flags, mounts[i].options), mounts[i].at);
  }
  EACH(i, devices) {
    must(mknod(devices[i].path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)), devices[i].path);
    must(chmod(devices[i].path, 0666), devices[i].path);
  }
  EACH(i, links) must(symlink(links[i][0], links[i][1]), links[i][1]);
}

static void hide(void) {
  struct stat st;
  EACH(i, masked) {
    if (stat(masked[i], &st) < 0) continue;
    if (S_ISDIR(st.st_mode)) must(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY, "size=0k"), masked[i]);
    else must(mount("/dev/null", masked[i], 0, MS_BIND, 0), masked[i]);
  }
  EACH(i, read_only) {
    if (mount(read_only[i], read_only[i], 0, MS_BIND | MS_REC, 0) < 0) {
      if (errno == ENOENT) continue;
      die(read_only[i]);
    }
    must(mount(0, read_only[i], 0, MS_BIND | MS_REMOUNT | MS_RDONLY | FLAGS, 0), read_only[i]);
  }
}

static void inside(const char *root, const char *program) {
  must(mount(0, "/", 0, MS_REC | MS_SLAVE, 0), "propagation");
  must(mount(root, root, 0, MS_BIND | MS_REC, 0), root);
  must(chdir(root), root);
  fill_root();
  int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), new = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
  must(fchdir(new), root);
  must(syscall(SYS_pivot_root, ".", "."), "pivot_root");
  must(fchdir(old), "old root");
  must(mount(0, ".", 0, MS_SLAVE | MS_REC, 0), "old root");
  must(umount2(".", MNT_DETACH), "old root");
  must(chdir("/"), "/");
  must(sethostname("floor", 5), "hostname");
  hide();
  must(mount(0, "/", 0, MS_BIND | MS_REMOUNT | MS_RDONLY, 0), "read-only root");
  must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
  must(syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */), "close_range");
  execl(program, program, (char *)0);
  die(program);
}

static void one_container(const char *root, const char *program, const char *cgroups) {
  char cgroup[4096];
  snprintf(cgroup, sizeof cgroup, "%s/floor-%d", cgroups, getpid());
  must(mkdir(cgroup, 0755), cgroup);
  int fd = open(cgroup, O_DIRECTORY | O_CLOEXEC), status;
  must(fd, cgroup);
  struct clone_args how = {
    .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP |
             CLONE_INTO_CGROUP,
    .exit_signal = SIGCHLD,
    .cgroup = (uint64_t)fd,
  };
  long pid = syscall(SYS_clone3, &how, sizeof how);
  must(pid, "clone3");
  if (pid == 0) inside(root, program);
  must(waitpid(pid, &status, 0), "wait");
  if (status) {
    fprintf(stderr, "floor: the container ended with status %#x\n", status);
    _exit(1);
  }
  close(fd);
  must(rmdir(cgroup), cgroup);
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  char root[4096];
  if (argc < 4 || !realpath(argv[1], root)) {
    fprintf(stderr, "usage: floor ROOTFS TIMES PROGRAM [CGROUP2_MOUNT]\n");
    return 2;
  }
  int times = atoi(argv[2]);
  double *took = calloc(times, sizeof *took);
  for (int i = 0; i < times; i++) {
    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    one_container(root, argv[3], argc > 4 ? argv[4] : "/sys/fs/cgroup");
    clock_gettime(CLOCK_MONOTONIC, &b);
    took[i] = (b.tv_sec - a.tv_sec) * 1e6 + (b.tv_nsec - a.tv_nsec) / 1e3;
  }
  qsort(took, times, sizeof *took, by_size);
  printf("floor_us median %.0f min %.0f n %d\n", took[times / 2], took[0], times);
}
