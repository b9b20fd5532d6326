// Copies of rectangles between regions: target[row, column] = source[row, column * STEP]; then zeros. A work-item
// copies up to LANES elements of one row.

__kernel void copy(__global const uchar *constants, __global const ELEMENT *source, uint source_image,
                   __global ELEMENT *target, uint target_image, uint source_at, uint target_at, uint sources_at,
                   uint targets_at, uint source_row, uint target_row, int rows, int columns, int gap, int first,
                   int last, int chunks, int items) {
    const int item = get_global_id(0);
    if (item >= items) return;
    const int chunk = item % chunks, row = item / chunks % rows, plane = first + item / chunks / rows;
    const size_t from = source_at + TABLE(sources_at)[plane] + (size_t)row * source_row;
    const size_t to = target_at + TABLE(targets_at)[plane] + (size_t)row * target_row;
    Numbers reads = IMAGE(source, source_image) + ELEMENTS(from);
    __global ELEMENT *writes = IMAGE(target, target_image) + ELEMENTS(to);
    const int end = min((chunk + 1) * LANES, columns);
    for (int column = chunk * LANES; column < end; ++column) writes[column] = reads[(size_t)column * STEP];
    if (end == columns)
        for (int column = columns; column < columns + gap; ++column) writes[column] = 0;
}
