/* Bilinear between the grid points, in 255 colours from dark to light and one for what is not a number. */
#include "colours.h"

#include <math.h>
#include <png.h>
#include <stdlib.h>

enum { COLOURS = 256, NOT_A_NUMBER = 0, STOPS = 5 };

static const double RAMP[STOPS][3] = {
    {8, 10, 44}, {84, 24, 120}, {196, 52, 84}, {248, 146, 44}, {255, 248, 198}, /* its lightness only rises */
};

static void fill_palette(png_byte palette[COLOURS][3]) {
    for (int channel = 0; channel < 3; channel++) {
        palette[NOT_A_NUMBER][channel] = 128;
        for (int colour = 1; colour < COLOURS; colour++) {
            double place = (STOPS - 1) * (colour - 1) / (double)(COLOURS - 2);
            int stop = place < STOPS - 2 ? (int)place : STOPS - 2;
            double part = place - stop;
            palette[colour][channel] =
                (png_byte)lround((1 - part) * RAMP[stop][channel] + part * RAMP[stop + 1][channel]);
        }
    }
}

static double between(const float *values, long nx, long ny, double x, double y) {
    long i = x < (double)(nx - 2) ? (long)x : nx - 2, j = y < (double)(ny - 2) ? (long)y : ny - 2;
    double right = x - (double)i, up = y - (double)j;
    const float *below = values + j * nx + i, *above = below + nx;
    return (1 - up) * ((1 - right) * below[0] + right * below[1]) + up * ((1 - right) * above[0] + right * above[1]);
}

static png_byte colour_of(double value, double low, double high) {
    if (isnan(value)) {
        return NOT_A_NUMBER;
    }
    double part = high > low ? (value - low) / (high - low) : 0.5;
    return (png_byte)(1 + lround((COLOURS - 2) * fmin(fmax(part, 0), 1)));
}

void *colours_png(const float *values, long nx, long ny, double low, double high, long width, long height,
                  size_t *bytes) {
    png_byte palette[COLOURS][3], *pixels = malloc((size_t)(width * height));
    png_image image = {.version = PNG_IMAGE_VERSION, .width = (png_uint_32)width, .height = (png_uint_32)height,
                       .format = PNG_FORMAT_RGB_COLORMAP, .colormap_entries = COLOURS};
    png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image) + 3 * COLOURS; /* libpng's bound leaves out the palette */
    void *png = malloc(size);
    if (!pixels || !png) {
        return NULL;
    }
    fill_palette(palette);
    for (long row = 0; row < height; row++) {
        double y = (double)(ny - 1) * (double)(height - 1 - row) / (double)(height - 1);
        for (long column = 0; column < width; column++) {
            double x = (double)(nx - 1) * (double)column / (double)(width - 1);
            pixels[row * width + column] = colour_of(between(values, nx, ny, x, y), low, high);
        }
    }
    if (!png_image_write_to_memory(&image, png, &size, 0, pixels, (png_int_32)width, palette)) {
        return NULL;
    }
    free(pixels);
    *bytes = size;
    return png;
}
