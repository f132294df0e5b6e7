/* heat.h5, as heat writes it and heat-worker reads it.
 *
 *     attributes of /   format, steps, every, dt, diffusivity, length_x, length_y, low, high
 *     /temperature      float [frame, y, x]; row 0 is the bottom edge
 *     /history          double [frame, column]; the columns below
 *
 * A frame is committed by its row of the history: the temperatures are flushed first, then the row is appended and
 * flushed. A row whose step is not a number (the fill value) is not there yet. Both are checksummed (Fletcher-32), so
 * that what is torn or damaged is an error and never a picture.
 */
#ifndef HEAT_LAYOUT_H
#define HEAT_LAYOUT_H

#define LAYOUT_FILE "heat.h5"
#define LAYOUT_FORMAT "jobd-heat 1"
#define LAYOUT_FORMAT_BYTES 16

enum { COLUMN_STEP, COLUMN_TIME, COLUMN_HIGHEST, COLUMN_HEAT, COLUMN_CHANGE, COLUMNS };
#define COLUMN_NAMES { "step", "time", "highest", "heat", "change" }

enum { CELLS_A_SIDE_MAX = 4096, FRAMES_MAX = 100000 };

#endif
