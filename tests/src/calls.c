/* Makes system calls by number and prints what each returned: the value, or minus the errno.
 *
 *   call NR ARG... [-- NR ARG...]...
 *
 * An argument is a number (decimal or 0x, with a sign), @TEXT for a pointer to text, % for a pointer to a page of
 * zeros, or $ for what the call before returned. The first word of a group may begin with i: the call is made with
 * int 0x80, the x86 entry, from a 64-bit program too. A group =TEXT prints text.
 *
 * Built without a C library, so that it makes no other calls than execve, write and exit_group.
 */
#if defined(__x86_64__)
#define WRITE 1
#define EXIT_GROUP 231
__asm__(".globl _start\n_start: xor %ebp,%ebp\n mov %rsp,%rdi\n and $-16,%rsp\n call start\n hlt\n");
static long native(long n, const long *a) {
    register long r10 __asm__("r10") = a[3];
    register long r8 __asm__("r8") = a[4];
    register long r9 __asm__("r9") = a[5];
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
static long compat(long n, const long *a) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"((int)n), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
                     : "r8", "r9", "r10", "r11", "memory");
    return result;
}
#elif defined(__i386__)
#define WRITE 4
#define EXIT_GROUP 252
__asm__(".globl _start\n_start: xor %ebp,%ebp\n mov %esp,%eax\n and $-16,%esp\n sub $12,%esp\n push %eax\n call start\n hlt\n");
static long native(long n, const long *a) {
    long result;
    /* Five arguments are enough for the tests: the sixth register is the frame pointer. */
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(n), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
                     : "memory");
    return result;
}
#define compat native
#elif defined(__aarch64__)
#define WRITE 64
#define EXIT_GROUP 94
__asm__(".globl _start\n_start: mov x0, sp\n bl start\n");
static long native(long n, const long *a) {
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a[0];
    register long x1 __asm__("x1") = a[1];
    register long x2 __asm__("x2") = a[2];
    register long x3 __asm__("x3") = a[3];
    register long x4 __asm__("x4") = a[4];
    register long x5 __asm__("x5") = a[5];
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#define compat native
#endif

static char page[4096];

static void put(const char *text) {
    long length = 0;
    while (text[length])
        length++;
    long a[6] = {1, (long)text, length, 0, 0, 0};
    native(WRITE, a);
}

static long number(const char *text) {
    unsigned long value = 0;
    int minus = *text == '-';
    text += minus;
    int base = text[0] == '0' && text[1] == 'x' ? 16 : 10;
    for (text += base == 16 ? 2 : 0; *text; text++)
        value = value * base + (*text <= '9' ? *text - '0' : *text - 'a' + 10);
    return minus ? -(long)value : (long)value;
}

static void print(long value) {
    char text[24];
    int at = sizeof text;
    unsigned long left = value < 0 ? -(unsigned long)value : (unsigned long)value;
    text[--at] = 0;
    text[--at] = '\n';
    do
        text[--at] = '0' + left % 10;
    while (left /= 10);
    if (value < 0)
        text[--at] = '-';
    put(text + at);
}

__attribute__((used)) void start(long *stack) {
    long argc = stack[0], last = 0;
    char **argv = (char **)(stack + 1);
    for (long at = 1; at < argc; at++) {
        char *word = argv[at];
        if (*word == '=') {
            put(word + 1);
            put("\n");
            at++;
            continue;
        }
        int x86 = *word == 'i';
        long n = number(word + x86), a[6] = {0, 0, 0, 0, 0, 0};
        for (int i = 0; ++at < argc && !(argv[at][0] == '-' && argv[at][1] == '-');) {
            char *arg = argv[at];
            long value = *arg == '@' ? (long)(arg + 1) : *arg == '%' ? (long)page : *arg == '$' ? last : number(arg);
            if (*arg == '@' && x86) {
                /* Addresses on the stack do not fit x86's registers; the page's does. */
                char *to = page, *from = arg + 1;
                while ((*to++ = *from++))
                    ;
                value = (long)page;
            }
            if (i < 6)
                a[i++] = value;
        }
        last = x86 ? compat(n, a) : native(n, a);
        print(last);
    }
    long a[6] = {0, 0, 0, 0, 0, 0};
    native(EXIT_GROUP, a);
}
