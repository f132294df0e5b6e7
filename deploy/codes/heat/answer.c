/* Answers as docs/describing-a-code.md has them: one line, perhaps raw bytes. */
#include "answer.h"

#include <math.h>
#include <stdarg.h>
#include <unistd.h>

enum { TEXT_BYTES_MAX = 500, WROTE_NOTHING = 1 };

static FILE *out;
static json_t *asked; /* the question's id, null when there is none */

void answer_to(FILE *place, json_t *id) {
    out = place;
    asked = id;
}

static void write_line(json_t *answer, size_t flags) {
    if (!answer || json_object_set(answer, "id", asked) < 0 || json_dumpf(answer, out, JSON_COMPACT | flags) < 0) {
        _exit(WROTE_NOTHING);
    }
    putc('\n', out);
    json_decref(answer);
}

void answer_error(const char *code, const char *text) {
    write_line(json_pack("{s:n, s:{s:s, s:s}}", "id", "error", "code", code, "text", text), 0);
    fflush(out);
}

static _Noreturn void end(void) {
    _exit(fflush(out) == 0 && !ferror(out) ? 0 : WROTE_NOTHING); /* nothing is left to HDF5's own cleaning up */
}

void refuse(const char *code, const char *format, ...) {
    char text[TEXT_BYTES_MAX];
    va_list words;
    va_start(words, format);
    vsnprintf(text, sizeof text, format, words);
    va_end(words);
    answer_error(code, text);
    end();
}

void reply(json_t *result, unsigned digits) {
    write_line(json_pack("{s:n, s:o}", "id", "result", result), JSON_REAL_PRECISION(digits));
    end();
}

void reply_with(json_t *result, const char *type, const void *body, size_t bytes) {
    json_int_t length = (json_int_t)bytes;
    write_line(json_pack("{s:n, s:s, s:I, s:o}", "id", "type", type, "bytes", length, "result", result), 0);
    fwrite(body, 1, bytes, out);
    end();
}

json_t *number_or_null(double number) {
    return isfinite(number) ? json_real(number) : json_null();
}
