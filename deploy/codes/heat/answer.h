/* What a question is answered with. It ends the process that answers: worker.c has one for each question. */
#ifndef HEAT_ANSWER_H
#define HEAT_ANSWER_H

#include <jansson.h>
#include <stdio.h>

#define BAD_ARGUMENT "bad_argument"
#define NO_FRAME "no_frame"
#define UNKNOWN_METHOD "unknown_method"
#define UNREADABLE "unreadable"

/* From here on answers go there, under this id. */
void answer_to(FILE *place, json_t *id);

/* Write an error and live on. */
void answer_error(const char *code, const char *text);

_Noreturn void refuse(const char *code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A result, its numbers with so many digits. */
_Noreturn void reply(json_t *result, unsigned digits);

/* A result and raw bytes. */
_Noreturn void reply_with(json_t *result, const char *type, const void *body, size_t bytes);

/* A number of JSON, or null for what JSON has no number for. */
json_t *number_or_null(double number);

#endif
