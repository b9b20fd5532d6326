// Max or mean over a window of taps around every position. Build option FORM: MAX or MEAN.
// A work-item computes one vector of one plane.

#define MAX 0
#define MEAN 1

__kernel void pool(__global const uchar *constants, __global ELEMENT *arena, uint arena_image, uint taps_at,
                   uint outputs_at, uint inside_at, uint inside_tap, uint scale_at, uint mask_at,
                   uint source_at, uint target_at, int tap_count, int vectors, int last_start, int first, int last, int items) {
    const int item = get_global_id(0);
    if (item >= items) return;
    const int at = item % vectors * LANES, plane = first + item / vectors;
    __global ELEMENT *image = IMAGE(arena, arena_image) + at;
    const Table taps = TABLE(taps_at) + plane * tap_count;
#if FORM == MAX
    const VECTOR lowest = (VECTOR)(-INFINITY);
    VECTOR best = lowest;
    for (int tap = 0; tap < tap_count; ++tap) {
        const TRUTHS inside = LOAD_TRUTHS(TABLE(inside_at) + (size_t)tap * (inside_tap / sizeof(int)) + at);
        const VECTOR value = inside ? LOAD(image + ELEMENTS(source_at + taps[tap])) : lowest;
        // A NaN wins and stays, as in torch.
        best = (value > best) || isnan(value) ? value : best;
    }
    best = masked(best, TABLE(mask_at) + at);
#else
    VECTOR best = (VECTOR)(0);
    for (int tap = 0; tap < tap_count; ++tap) best += LOAD(image + ELEMENTS(source_at + taps[tap]));
    best *= LOAD(NUMBERS(scale_at) + at);
#endif
    STORE(best, image + ELEMENTS(target_at + TABLE(outputs_at)[plane]));
}
