/* The methods of the worker. */
#ifndef HEAT_FRAMES_H
#define HEAT_FRAMES_H

#include <jansson.h>

/* Answer this question about this run directory. */
_Noreturn void frames_progress(const char *run);
_Noreturn void frames_frame(const char *run, json_t *arguments);

#endif
