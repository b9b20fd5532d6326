// Convolution over linear planes: flexgroup/kernels/conv.py says what the tables mean and how the three forms differ.
// Build options: FORM (RING, STRIP or DENSE), ROWS, TILE (vectors) and RESIDUAL (0 or 1).
//
// A work-item computes one tile of positions for one band of rows (`band_rows`, a multiple of ROWS). Neighbours in a
// work-group take neighbouring tiles: they read the same weights, and adjacent addresses of the same plane.
//
// The ring's groups start at any row, so a band also needs the groups that start in the ROWS - 1 rows above it. It
// consumes those first, and drops the rows above the band instead of storing them. So every band is independent, the
// plan's tables serve as they are, and the price is (ROWS - 1) / band_rows more groups.

#define RING 0
#define STRIP 1
#define DENSE 2

static inline void start_row(VECTOR *sums, Numbers bias, int row) {
#pragma unroll
    for (int t = 0; t < TILE; ++t) sums[t] = (VECTOR)(bias[row]);
}

// One group: sums[first + i] += weights[i] * plane, for the ROWS rows from slot `first` on, around the ring.
static inline void multiply(VECTOR sums[ROWS][TILE], Numbers plane, Numbers weights, int first) {
    ELEMENT factors[ROWS];
#pragma unroll
    for (int i = 0; i < ROWS; ++i) factors[i] = weights[i];
#pragma unroll
    for (int t = 0; t < TILE; ++t) {
        const VECTOR x = LOAD(plane + t * LANES);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) {
            const int slot = (first + i) % ROWS;
            sums[slot][t] = factors[i] * x + sums[slot][t];
        }
    }
}

// A finished row goes to its output plane. The last tile overlaps the one before it: `skip` vectors are not its own.
static inline void store_row(const VECTOR *sums, __global ELEMENT *output, Numbers residual, Table mask, int skip, uint low,
                      uint high) {
#pragma unroll
    for (int t = 0; t < TILE; ++t) {
        VECTOR value = sums[t];
#if RESIDUAL
        value += LOAD(residual + t * LANES);
#endif
        if (t >= skip) STORE(masked(finished(value, low, high), mask + t * LANES), output + t * LANES);
    }
}

__kernel void conv(__global const uchar *constants, __global ELEMENT *arena, uint arena_image, uint ends_at,
                   uint offsets_at, uint weights_at, uint bias_at, uint outputs_at, uint residuals_at, uint mask_at,
                   uint source_at, uint target_at, uint residual_at, int row_count, int sweep, int columns,
                   int first_tile, int last_tile, int whole_tiles, int last_start, uint low, uint high, int tiles,
                   int band_rows, int items) {
    const int item = get_global_id(0);
    if (item >= items) return;
    const int first_row = item / tiles * band_rows, last_row = min(first_row + band_rows, row_count);
    const int own = item % tiles * TILE, start = min(own, last_start), skip = own - start;
    __global ELEMENT *image = IMAGE(arena, arena_image) + start * LANES;
    Numbers source = image + ELEMENTS(source_at);
    const Table ends = TABLE(ends_at), offsets = TABLE(offsets_at), outputs = TABLE(outputs_at);
    const Table residuals = TABLE(residuals_at), mask = TABLE(mask_at) + start * LANES;
    const Numbers weights = NUMBERS(weights_at), bias = NUMBERS(bias_at);
    VECTOR sums[ROWS][TILE];

#define FINISH(row, slot)                                                                                              \
    store_row(sums[slot], image + ELEMENTS(target_at + outputs[row]),                                                  \
              image + ELEMENTS(residual_at + residuals[RESIDUAL ? (row) : 0]), mask, skip, low, high)

#if FORM == RING
    // The strip above the band is entered at its second row: groups of its first row end above the band.
    int row = max(first_row - ROWS, 0), group = first_row ? ends[row] : 0;
#pragma unroll
    for (int i = 0; i < ROWS; ++i) start_row(sums[i], bias, row + i);
    for (; row < last_row; row += ROWS) {
        const int keep = row >= first_row;
#pragma unroll
        for (int phase = 0; phase < ROWS; ++phase) {
            for (const int end = ends[row + phase]; group < end; ++group)
                multiply(sums, source + ELEMENTS(offsets[group]), weights + (size_t)group * ROWS, phase);
            if (keep) FINISH(row + phase, phase);
            start_row(sums[phase], bias, row + phase + ROWS);
        }
    }
#else
    for (int row = first_row; row < last_row; row += ROWS) {
        const int strip = row / ROWS;
#pragma unroll
        for (int i = 0; i < ROWS; ++i) start_row(sums[i], bias, row + i);
#if FORM == DENSE
        const int begin = strip * columns, end = begin + columns, shared = begin;
#else
        const int begin = strip ? ends[strip - 1] : 0, end = ends[strip], shared = 0;
#endif
        for (int group = begin; group < end; ++group)
            multiply(sums, source + ELEMENTS(offsets[group - shared]), weights + (size_t)group * ROWS, 0);
#pragma unroll
        for (int i = 0; i < ROWS; ++i) FINISH(row + i, i);
    }
#endif
}
