/* heat-worker: answers questions about runs of heat, one line of JSON each (docs/describing-a-code.md).
 *
 * Every question is answered by a process of its own, forked here: the files are written by users, and what a library
 * does with hostile bytes (crash, eat memory, never return) must cost one question and not the worker. The whole answer
 * is collected before any of it is passed on, so a process that dies in its midst leaves no half of one. A fork costs
 * less than a millisecond; a file that was replaced by another is never confused with what was known of it.
 */
#include <errno.h>
#include <hdf5.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "answer.h"
#include "frames.h"

enum { QUESTION_BYTES_MAX = 1 << 20, ANSWER_S_MAX = 10, PIECE_BYTES = 1 << 16, END = -1 };
#define MEMORY_BYTES_MAX ((rlim_t)1 << 30) /* a frame of 4096 x 4096 takes 64 MiB */
#define ANSWER_BYTES_MAX ((size_t)32 << 20)

typedef struct {
    char *bytes;
    size_t length, room;
} Answer;

/* The next line, without its end; its length, which may be too much (what is too much is not kept), or END. */
static long read_line(char *line) {
    long length = 0;
    int c;
    while ((c = getc(stdin)) != '\n' && c != EOF) {
        if (length < QUESTION_BYTES_MAX) {
            line[length] = (char)c;
        }
        length += length <= QUESTION_BYTES_MAX;
    }
    return c == EOF ? END : length; /* a question without its line end was never asked */
}

static _Noreturn void carry_out(json_t *question) {
    json_t *method = json_object_get(question, "method"), *run = json_object_get(question, "run");
    json_t *arguments = json_object_get(question, "args");
    const char *name = json_string_value(method), *path = json_string_value(run);
    bool is_progress = name && strcmp(name, "progress") == 0;
    if (!is_progress && !(name && strcmp(name, "frame") == 0)) {
        refuse(UNKNOWN_METHOD, "The methods are progress and frame.");
    }
    if (!path || path[0] != '/') {
        refuse(BAD_ARGUMENT, "The run must be an absolute path.");
    }
    if (arguments && !json_is_object(arguments)) {
        refuse(BAD_ARGUMENT, "The arguments must be an object.");
    }
    if (is_progress) {
        frames_progress(path);
    }
    frames_frame(path, arguments);
}

/* The process that answers: bounded in memory and time, and gone with its parent. */
static _Noreturn void answer_alone(json_t *question, json_t *id, int to) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_AS, &(struct rlimit){MEMORY_BYTES_MAX, MEMORY_BYTES_MAX});
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    alarm(ANSWER_S_MAX);
    answer_to(fdopen(to, "w"), id);
    carry_out(question);
}

/* Read all that comes; false when it is too much. */
static bool collect(int from, Answer *answer) {
    ssize_t got = 1;
    answer->length = 0;
    while (got != 0 && answer->length < ANSWER_BYTES_MAX) {
        if (answer->room < answer->length + PIECE_BYTES) {
            answer->room = 2 * answer->room + PIECE_BYTES;
            answer->bytes = realloc(answer->bytes, answer->room);
            if (!answer->bytes) {
                abort();
            }
        }
        got = read(from, answer->bytes + answer->length, PIECE_BYTES);
        if (got < 0 && errno != EINTR) {
            return false;
        }
        answer->length += got > 0 ? (size_t)got : 0;
    }
    return got == 0;
}

static void pass_on(pid_t child, int from, Answer *answer) {
    int status;
    bool is_whole = collect(from, answer);
    if (!is_whole) {
        kill(child, SIGKILL);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    if (is_whole && answer->length > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        fwrite(answer->bytes, 1, answer->length, stdout);
        fflush(stdout);
    } else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        answer_error(UNREADABLE, "The files of the run could not be read in time.");
    } else {
        answer_error(UNREADABLE, "The files of the run cannot be read: the reader failed on them.");
    }
}

static void answer_question(json_t *question, json_t *id, Answer *answer) {
    int ends[2];
    pid_t child = -1;
    if (pipe(ends) == 0) {
        child = fork();
        if (child == 0) {
            close(ends[0]);
            answer_alone(question, id, ends[1]);
        }
        close(ends[1]);
        if (child > 0) {
            pass_on(child, ends[0], answer);
        }
        close(ends[0]);
    }
    if (child < 0) {
        answer_error("busy", "There is no process to answer the question.");
    }
}

static void answer_line(const char *line, long length, Answer *answer) {
    json_error_t error;
    answer_to(stdout, json_null());
    json_t *question = length > QUESTION_BYTES_MAX ? NULL : json_loadb(line, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    json_t *id = json_object_get(question, "id");
    if (length > QUESTION_BYTES_MAX) {
        answer_error(BAD_ARGUMENT, "The question is longer than 1 MiB.");
    } else if (!question) {
        answer_error(BAD_ARGUMENT, "The question is not JSON.");
    } else if (!json_is_integer(id)) {
        answer_error(BAD_ARGUMENT, "The question has no id that is a whole number.");
    } else {
        answer_to(stdout, id);
        answer_question(question, id, answer);
    }
    json_decref(question);
}

int main(void) {
    static char line[QUESTION_BYTES_MAX];
    Answer answer = {0};
    long length;
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0);
    while ((length = read_line(line)) != END) {
        answer_line(line, length, &answer);
    }
    free(answer.bytes);
    return 0;
}
