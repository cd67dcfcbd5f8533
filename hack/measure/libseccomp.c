/* What libseccomp takes to make the program of a profile, for hack/bench-seccomp: runc and crun both call it.
 *
 *   libseccomp LIBRARY ROUNDS <PROFILE    nanoseconds from seccomp_init to the exported program, the least of ROUNDS
 *
 * PROFILE has a line for each call of the library (seccomp.py writes it; numbers are the library's own):
 *   default ACTION | tree LEVEL | arch TOKEN | rule ACTION NAME [INDEX OPERATOR VALUE VALUE]...
 * Names are resolved within the time, as the runtimes do. The library is opened by its path, so that its headers need
 * not be installed; the prototypes are those of seccomp(3)'s manual pages.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct argument {
    unsigned index;
    int operator;
    uint64_t one, other;
};

struct line {
    enum { DEFAULT, TREE, ARCH, RULE } kind;
    uint32_t value;
    char name[64];
    unsigned count;
    struct argument arguments[6];
};

enum { OPTIMIZE = 8, MOST = 4096 };

static void *(*start)(uint32_t);
static int (*set)(void *, int, uint32_t);
static int (*add_arch)(void *, uint32_t);
static int (*resolve)(const char *);
static int (*add_rule)(void *, uint32_t, int, unsigned, const struct argument *);
static int (*export)(const void *, int);
static void (*release)(void *);
static struct line lines[MOST];

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return found;
}

static int parse(struct line *line, char *text) {
    static const char *const kinds[] = {"default", "tree", "arch", "rule"};
    char kind[16];
    int used;
    if (sscanf(text, "%15s %u%n", kind, &line->value, &used) != 2)
        return -1;
    for (line->kind = DEFAULT; strcmp(kind, kinds[line->kind]); line->kind++)
        if (line->kind == RULE)
            return -1;
    if (line->kind != RULE)
        return 0;
    text += used;
    if (sscanf(text, "%63s%n", line->name, &used) != 1)
        return -1;
    for (line->count = 0; line->count < 6; line->count++) {
        struct argument *at = &line->arguments[line->count];
        text += used;
        if (sscanf(text, "%u %d %lu %lu%n", &at->index, &at->operator, &at->one, &at->other, &used) != 4)
            break;
    }
    return 0;
}

/* Makes the program once; returns whether that worked. */
static int make(unsigned count, int file) {
    void *filter = NULL;
    for (const struct line *line = lines; line < lines + count; line++) {
        int failed = 0;
        switch (line->kind) {
        case DEFAULT:
            failed = !(filter = start(line->value));
            break;
        case TREE:
            failed = set(filter, OPTIMIZE, line->value);
            break;
        case ARCH:
            failed = add_arch(filter, line->value);
            failed = failed == -EEXIST ? 0 : failed;
            break;
        case RULE: {
            int number = resolve(line->name);
            if (number != -1)
                failed = add_rule(filter, line->value, number, line->count, line->arguments);
            break;
        }
        }
        if (failed) {
            fprintf(stderr, "line %ld (%s): %d\n", line - lines + 1, line->name, failed);
            return 0;
        }
    }
    int failed = lseek(file, 0, SEEK_SET) || export(filter, file);
    release(filter);
    return !failed;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    void *library = dlopen(argv[1], RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    start = symbol(library, "seccomp_init");
    set = symbol(library, "seccomp_attr_set");
    add_arch = symbol(library, "seccomp_arch_add");
    resolve = symbol(library, "seccomp_syscall_resolve_name");
    add_rule = symbol(library, "seccomp_rule_add_array");
    export = symbol(library, "seccomp_export_bpf");
    release = symbol(library, "seccomp_release");
    static char text[1024];
    unsigned count = 0;
    while (fgets(text, sizeof text, stdin) && count < MOST)
        if (parse(&lines[count++], text)) {
            fprintf(stderr, "line %u: %s", count, text);
            return 1;
        }
    int file = memfd_create("program", MFD_CLOEXEC);
    double best = 1e18;
    for (int round = atoi(argv[2]); round > 0; round--) {
        double begin = now();
        if (!make(count, file))
            return 1;
        double took = now() - begin;
        best = took < best ? took : best;
    }
    printf("%.0f\n", best);
    return 0;
}
