// Copies that interleave rows: target[row][PARTS * column + part] = source[row, part][column]. Build option PARTS.
// A work-item copies one number; neighbours in a work-group write side by side.

__kernel void interleave(__global const uchar *constants, __global const ELEMENT *source, uint source_image,
                         __global ELEMENT *target, uint target_image, uint source_at, uint target_at,
                         uint from_planes_at, uint to_planes_at, uint from_parts_at, uint to_rows_at, int rows,
                         int columns, int first, int last, int items) {
    const int item = get_global_id(0);
    if (item >= items) return;
    const int width = PARTS * columns, at = item % width, row = item / width % rows, plane = first + item / width / rows;
    const int part = row * PARTS + at % PARTS;
    const size_t from = source_at + TABLE(from_planes_at)[plane] + TABLE(from_parts_at)[part];
    const size_t to = target_at + TABLE(to_planes_at)[plane] + TABLE(to_rows_at)[row];
    IMAGE(target, target_image)[ELEMENTS(to) + at] = IMAGE(source, source_image)[ELEMENTS(from) + at / PARTS];
}
