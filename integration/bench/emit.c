// emit LINES SIZE: writes so many lines of SIZE bytes, the newline included, each with its number in front.
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc != 3) errx(2, "emit LINES SIZE");
    unsigned long lines = strtoul(argv[1], NULL, 10), size = strtoul(argv[2], NULL, 10);
    static char line[1 << 16], buffer[1 << 16];
    if (size < 22 || size > sizeof line) errx(2, "SIZE is 22 to %zu", sizeof line);
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    memset(line, 'x', size);
    line[size - 1] = '\n';
    for (unsigned long number = 0; number < lines; number++) {
        char digits[21];
        memcpy(line, digits, (size_t)snprintf(digits, sizeof digits, "%020lu", number));
        if (fwrite(line, 1, size, stdout) != size) err(1, "write");
    }
    return fflush(stdout) ? 1 : 0;
}
