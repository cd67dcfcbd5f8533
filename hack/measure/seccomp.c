/* What a seccomp filter costs, for hack/bench-seccomp.
 *
 *   seccomp calls ROUNDS       nanoseconds per call, the least of ROUNDS loops: one line per kind of call
 *   seccomp load FILE ROUNDS   nanoseconds of seccomp(2) with the program in FILE, the least of ROUNDS processes
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static double cost(int rounds, long nr, long a, long b) {
    enum { LOOP = 2000 };
    double best = 1e18;
    for (int round = 0; round < rounds; round++) {
        double start = now();
        for (int i = 0; i < LOOP; i++)
            syscall(nr, a, b, 0L);
        double each = (now() - start) / LOOP;
        if (each < best)
            best = each;
    }
    return best;
}

static int calls(int rounds) {
    /* Allowed without a condition; allowed by the fourth of five rules; the same refused; refused altogether. */
    printf("allowed %.1f\n", cost(rounds, SYS_getppid, 0, 0));
    printf("checked %.1f\n", cost(rounds, SYS_personality, 0xffffffff, 0));
    printf("denied-by-argument %.1f\n", cost(rounds, SYS_personality, 0xffffff00, 0));
    printf("denied %.1f\n", cost(rounds, SYS_acct, 0, 0));
    return 0;
}

static int load(const char *file, int rounds) {
    static struct sock_filter code[4096];
    int fd = open(file, O_RDONLY);
    ssize_t size = read(fd, code, sizeof code);
    if (size <= 0)
        return 1;
    struct sock_fprog program = {size / sizeof *code, code};
    double best = 1e18;
    for (int round = 0; round < rounds; round++) {
        int pipes[2];
        if (pipe(pipes))
            return 1;
        if (fork() == 0) {
            double start = now();
            long failed = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
            double took = failed ? -1 : now() - start;
            if (write(pipes[1], &took, sizeof took) != sizeof took)
                _exit(1);
            _exit(0);
        }
        double took = -1;
        if (read(pipes[0], &took, sizeof took) != sizeof took || took < 0)
            return 1;
        wait(NULL);
        close(pipes[0]);
        close(pipes[1]);
        if (took < best)
            best = took;
    }
    printf("%.0f\n", best);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "calls"))
        return calls(atoi(argv[2]));
    if (argc == 4 && !strcmp(argv[1], "load"))
        return load(argv[2], atoi(argv[3]));
    return 2;
}
