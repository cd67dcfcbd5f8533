// stopwatch: run a program once and report on descriptor 3 what it cost, as one line:
//   wall_ns user_us sys_us maxrss_kb status
// In C and static, so that the numbers are the program's: a Python parent would add its own start-up to wall time,
// and its memory to the peak (a child's peak starts at that of the memory map it was forked with).
// usage: stopwatch PROGRAM ARGUMENT... 3>FILE
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc < 2) return 125;
  fcntl(3, F_SETFD, FD_CLOEXEC);
  struct timespec start, end;
  struct rusage cost;
  int status;
  clock_gettime(CLOCK_MONOTONIC, &start);
  pid_t pid = vfork();
  if (pid == 0) {
    execv(argv[1], argv + 1);
    _exit(127);
  }
  if (pid < 0 || wait4(pid, &status, 0, &cost) < 0) return 125;
  clock_gettime(CLOCK_MONOTONIC, &end);
  long long ns = (end.tv_sec - start.tv_sec) * 1000000000LL + (end.tv_nsec - start.tv_nsec);
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  dprintf(3, "%lld %lld %lld %ld %d\n", ns, cost.ru_utime.tv_sec * 1000000LL + cost.ru_utime.tv_usec,
          cost.ru_stime.tv_sec * 1000000LL + cost.ru_stime.tv_usec, cost.ru_maxrss, code);
  return 0;
}
