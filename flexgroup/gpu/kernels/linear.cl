// A dense linear layer on one vector: output = curve(clamp(weights @ input + bias)). Build option TILE: vectors of rows a block.
// A work-item computes one vector of rows; flexgroup/kernels/linear.py says how the weights are ordered.

__kernel void linear(__global const uchar *constants, __global ELEMENT *arena, uint arena_image, uint input_at,
                     uint weights_at, uint bias_at, uint output_at, int columns, int first, int last, uint low,
                     uint high, int items) {
    const int item = get_global_id(0);
    if (item >= items) return;
    const int block = first + item / TILE, t = item % TILE, rows = (block * TILE + t) * LANES;
    __global ELEMENT *image = IMAGE(arena, arena_image);
    const Numbers input = image + ELEMENTS(input_at);
    const Numbers weights = NUMBERS(weights_at) + (size_t)block * columns * TILE * LANES + t * LANES;
    VECTOR sum = LOAD(NUMBERS(bias_at) + rows);
    for (int column = 0; column < columns; ++column)
        sum = LOAD(weights + (size_t)column * TILE * LANES) * input[column] + sum;
    STORE(finished(sum, low, high), image + ELEMENTS(output_at) + rows);
}
