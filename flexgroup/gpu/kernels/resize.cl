// Resizing: flexgroup/kernels/resize.py says what the tables mean. A work-item computes LANES columns of one row of one
// plane, straight from the input: offsets into scratch tell which column they stand for.

__kernel void resize(__global const uchar *constants, __global ELEMENT *arena, uint arena_image, uint inputs_at,
                     uint outputs_at, uint arena_at, uint scratch_at, uint row_offsets_at, uint row_weights_at,
                     uint new_row_at, int row_taps, uint column_offsets_at, uint column_weights_at, int column_taps,
                     uint places_at, uint mask_at, int input_blocks, int output_blocks, int rows, int output_row,
                     int bands, int band_rows, int first, int last, int items) {
    const int item = get_global_id(0);
    if (item >= items) return;
    const int block = item % output_blocks, row = item / output_blocks % rows, plane = item / output_blocks / rows;
    __global ELEMENT *image = IMAGE(arena, arena_image);
    const Numbers input = image + ELEMENTS(TABLE(inputs_at)[plane]);
    const Table row_offsets = TABLE(row_offsets_at) + row * row_taps;
    const Numbers row_weights = NUMBERS(row_weights_at) + row * row_taps;
    __global ELEMENT *output = image + ELEMENTS(TABLE(outputs_at)[plane] + row * output_row + TABLE(places_at)[block]);
    for (int lane = 0; lane < LANES; ++lane) {
        ELEMENT sum = 0;
        for (int tap = 0; tap < column_taps; ++tap) {
            const int entry = (block * column_taps + tap) * LANES + lane;
            const size_t column = ELEMENTS(TABLE(column_offsets_at)[entry]) / LANES;
            ELEMENT along = 0;
            for (int i = 0; i < row_taps; ++i) along += row_weights[i] * input[ELEMENTS(row_offsets[i]) + column];
            sum += NUMBERS(column_weights_at)[entry] * along;
        }
        // Positions beyond the row's end belong to other work-items.
        if (TABLE(mask_at)[lane]) output[lane] = sum;
    }
}
