/* progress; frame with the views plate (PNG, JSON) and history (JSON). */
#include "frames.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "answer.h"
#include "colours.h"
#include "layout.h"
#include "recording.h"

enum { WIDTH_MIN = 64, WIDTH_MAX = 2000, WIDTH_PNG = 640, WIDTH_JSON = 256, HEIGHT_MIN = 16, VALUES_MAX = 1 << 19 };
enum { DIGITS_FLOAT = 9, DIGITS_DOUBLE = 17 };

static const char *const NAMES[COLUMNS] = COLUMN_NAMES;

typedef struct {
    bool is_history, is_png, is_latest;
    json_int_t index; /* when it is not the latest */
    long width;
} Asked;

static void damage_is_an_error(const char *text) {
    refuse(UNREADABLE, "%s", text);
}

static void damage_is_a_problem(const char *text) {
    reply(json_pack("{s:s}", "problem", text), DIGITS_DOUBLE);
}

static json_t *number_of(double number, int column) {
    return column == COLUMN_STEP && number >= 0 && number <= 1e9 ? json_integer((json_int_t)number)
                                                                 : number_or_null(number);
}

void frames_progress(const char *run) {
    Recording recording;
    if (!recording_open(&recording, run, damage_is_a_problem) || recording.count == 0) {
        reply(json_pack("{s:f, s:s, s:{s:i, s:i}}", "fraction", 0.0, "text", "has written no frame yet", "frames",
                        "plate", 0, "history", 0), DIGITS_DOUBLE);
    }
    double *row = recording_rows(&recording, recording.count - 1, 1);
    char text[80];
    snprintf(text, sizeof text, "step %.0f of %ld", row[COLUMN_STEP], recording.steps);
    json_t *metrics = json_object();
    for (int column = 0; column < COLUMNS; column++) {
        json_object_set_new(metrics, NAMES[column], number_of(row[column], column));
    }
    reply(json_pack("{s:f, s:s, s:{s:i, s:i}, s:o}", "fraction", row[COLUMN_STEP] / (double)recording.steps, "text",
                    text, "frames", "plate", (int)recording.count, "history", (int)recording.count, "metrics", metrics),
          DIGITS_DOUBLE);
}

static void refuse_other_arguments(json_t *arguments) {
    const char *name;
    json_t *value;
    json_object_foreach(arguments, name, value) {
        if (strcmp(name, "view") && strcmp(name, "index") && strcmp(name, "format") && strcmp(name, "width")) {
            refuse(BAD_ARGUMENT, "A frame takes view, index, format and width, nothing else.");
        }
    }
}

/* Whether the argument is this word; without the argument, the preset. */
static bool is_word(json_t *argument, const char *word, bool preset) {
    return argument ? json_is_string(argument) && strcmp(json_string_value(argument), word) == 0 : preset;
}

static Asked understand(json_t *arguments) {
    refuse_other_arguments(arguments);
    json_t *view = json_object_get(arguments, "view"), *index = json_object_get(arguments, "index");
    json_t *format = json_object_get(arguments, "format"), *width = json_object_get(arguments, "width");
    Asked asked = {.is_history = is_word(view, "history", false), .is_png = is_word(format, "png", false)};
    if (!asked.is_history && !is_word(view, "plate", false)) {
        refuse(BAD_ARGUMENT, "The view must be \"plate\" or \"history\".");
    }
    if (!asked.is_png && !is_word(format, "json", true)) {
        refuse(BAD_ARGUMENT, "The format must be \"json\" or \"png\".");
    }
    if (asked.is_history && (asked.is_png || width)) {
        refuse(BAD_ARGUMENT, "The view history has neither a png nor a width.");
    }
    asked.is_latest = is_word(index, "latest", true);
    asked.index = json_integer_value(index);
    if (!asked.is_latest && (!json_is_integer(index) || asked.index < 0)) {
        refuse(BAD_ARGUMENT, "The index must be \"latest\" or a whole number from 0 on.");
    }
    json_int_t pixels = width ? json_integer_value(width) : asked.is_png ? WIDTH_PNG : WIDTH_JSON;
    if (pixels < WIDTH_MIN || pixels > WIDTH_MAX) {
        refuse(BAD_ARGUMENT, "The width must be a whole number from %d to %d.", WIDTH_MIN, WIDTH_MAX);
    }
    asked.width = (long)pixels;
    return asked;
}

static long position(const Asked *asked, long count) {
    if (count == 0) {
        refuse(NO_FRAME, "The run has written no frame yet.");
    }
    if (asked->is_latest) {
        return count - 1;
    }
    if (asked->index >= count) {
        refuse(NO_FRAME, "There is no frame %" JSON_INTEGER_FORMAT ": the run has %ld so far.", asked->index, count);
    }
    return (long)asked->index;
}

static _Noreturn void answer_history(const Recording *recording, long index) {
    double *rows = recording_rows(recording, 0, index + 1);
    json_t *columns = json_object();
    for (int column = 0; column < COLUMNS; column++) {
        json_t *series = json_array();
        for (long row = 0; row <= index; row++) {
            json_array_append_new(series, number_of(rows[row * COLUMNS + column], column));
        }
        json_object_set_new(columns, NAMES[column], series);
    }
    reply(json_pack("{s:s, s:i, s:i, s:o}", "view", "history", "index", (int)index, "count", (int)recording->count,
                    "columns", columns), DIGITS_DOUBLE);
}

/* Every stride-th point along both axes. */
static json_t *thinned(const Recording *recording, const float *values, long stride) {
    json_t *rows = json_array();
    for (long j = 0; j < recording->ny; j += stride) {
        json_t *row = json_array();
        for (long i = 0; i < recording->nx; i += stride) {
            json_array_append_new(row, number_or_null(values[j * recording->nx + i]));
        }
        json_array_append_new(rows, row);
    }
    return rows;
}

static _Noreturn void answer_numbers(const Recording *recording, const float *values, long width, json_t *meta) {
    long stride = (recording->nx + width - 1) / width;
    while ((recording->nx / stride + 1) * (recording->ny / stride + 1) > VALUES_MAX) {
        stride++;
    }
    json_object_set_new(meta, "size", json_pack("[f, f]", recording->length_x, recording->length_y));
    json_object_set_new(meta, "points", json_pack("[i, i]", (int)recording->nx, (int)recording->ny));
    json_object_set_new(meta, "stride", json_integer(stride));
    json_object_set_new(meta, "rows", thinned(recording, values, stride));
    reply(meta, DIGITS_FLOAT);
}

static _Noreturn void answer_picture(const Recording *recording, const float *values, long width, json_t *meta) {
    double wanted = (double)width * recording->length_y / recording->length_x;
    long height = lround(fmin(fmax(wanted, HEIGHT_MIN), WIDTH_MAX));
    size_t bytes;
    void *png = colours_png(values, recording->nx, recording->ny, recording->low, recording->high, width, height,
                            &bytes);
    if (!png) {
        refuse(UNREADABLE, "The picture could not be made.");
    }
    json_object_set_new(meta, "width", json_integer(width));
    json_object_set_new(meta, "height", json_integer(height));
    reply_with(meta, "image/png", png, bytes);
}

void frames_frame(const char *run, json_t *arguments) {
    Asked asked = understand(arguments);
    Recording recording = {0};
    bool is_there = recording_open(&recording, run, damage_is_an_error);
    long index = position(&asked, is_there ? recording.count : 0);
    if (asked.is_history) {
        answer_history(&recording, index);
    }
    double *row = recording_rows(&recording, index, 1);
    json_t *meta = json_pack("{s:s, s:i, s:i, s:o, s:o, s:f, s:f}", "view", "plate", "index", (int)index, "count",
                             (int)recording.count, "step", number_of(row[COLUMN_STEP], COLUMN_STEP), "time",
                             number_or_null(row[COLUMN_TIME]), "low", recording.low, "high", recording.high);
    float *values = recording_frame(&recording, index);
    if (asked.is_png) {
        answer_picture(&recording, values, asked.width, meta);
    }
    answer_numbers(&recording, values, asked.width, meta);
}
