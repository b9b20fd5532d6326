// Copies of any numbers to any places: target[to_rows[i] + to_columns[j]] = source[from_rows[i] + from_columns[j]].
// A work-item copies one number.

__kernel void gather(__global const uchar *constants, __global const ELEMENT *source, uint source_image,
                     __global ELEMENT *target, uint target_image, uint source_at, uint target_at, uint from_rows_at,
                     uint from_columns_at, uint to_rows_at, uint to_columns_at, int columns, int first, int last,
                     int items) {
    const int item = get_global_id(0);
    if (item >= items) return;
    const int column = item % columns, row = first + item / columns;
    const size_t from = source_at + TABLE(from_rows_at)[row] + TABLE(from_columns_at)[column];
    const size_t to = target_at + TABLE(to_rows_at)[row] + TABLE(to_columns_at)[column];
    IMAGE(target, target_image)[ELEMENTS(to)] = IMAGE(source, source_image)[ELEMENTS(from)];
}
