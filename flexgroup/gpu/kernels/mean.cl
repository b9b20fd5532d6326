// The mean of a plane's pixels. A work-item sums one plane.

__kernel void mean(__global const uchar *constants, __global ELEMENT *arena, uint arena_image, uint inputs_at,
                   uint mask_at, uint arena_at, uint output_at, int vectors, int first, int last, uint scale, int items) {
    const int item = get_global_id(0);
    if (item >= items) return;
    const int plane = first + item;
    __global ELEMENT *image = IMAGE(arena, arena_image);
    const Numbers input = image + ELEMENTS(TABLE(inputs_at)[plane]);
    VECTOR sum = (VECTOR)(0);
    for (int i = 0; i < vectors; ++i) sum += masked(LOAD(input + i * LANES), TABLE(mask_at) + i * LANES);
    ELEMENT lanes[LANES], total = 0;
    STORE(sum, lanes);
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) total += lanes[lane];
    image[ELEMENTS(output_at) + plane] = total * (ELEMENT)as_float(scale);
}
