// Copies that exchange rows and columns: target[to_rows[i]][j] = source[from_columns[j]][i]. A work-item copies one
// number; neighbours in a work-group write side by side.

__kernel void transpose(__global const uchar *constants, __global const ELEMENT *source, uint source_image,
                        __global ELEMENT *target, uint target_image, uint source_at, uint target_at,
                        uint from_columns_at, uint to_rows_at, int rows, int columns, int first, int last, int items) {
    const int item = get_global_id(0);
    if (item >= items) return;
    const int column = item % columns, row = item / columns;
    const size_t from = source_at + TABLE(from_columns_at)[column], to = target_at + TABLE(to_rows_at)[row];
    IMAGE(target, target_image)[ELEMENTS(to) + column] = IMAGE(source, source_image)[ELEMENTS(from) + row];
}
