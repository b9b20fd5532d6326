// curve(clamp(f(x))) over planes. Build option FORM: ADD or MUL, with _EACH where the second operand is one number a
// plane, AFFINE (a scale and a shift a plane) or SCALE (one a position).
// A work-item computes one vector of one plane.

#define ADD 0
#define AFFINE 1
#define SCALE 2
#define MUL 3
#define ADD_EACH 4
#define MUL_EACH 5

__kernel void elementwise(__global const uchar *constants, __global ELEMENT *arena, uint arena_image,
                          uint first_inputs_at, uint second_inputs_at, uint outputs_at, uint scale_at, uint shift_at,
                          uint mask_at, uint arena_at, int vectors, int first, int last, uint low, uint high,
                          int items) {
    const int item = get_global_id(0);
    if (item >= items) return;
    const int at = item % vectors * LANES, plane = first + item / vectors;
    __global ELEMENT *start = IMAGE(arena, arena_image), *image = start + at;
    VECTOR value = LOAD(image + ELEMENTS(TABLE(first_inputs_at)[plane]));
#if FORM == ADD
    value += LOAD(image + ELEMENTS(TABLE(second_inputs_at)[plane]));
#elif FORM == MUL
    value *= LOAD(image + ELEMENTS(TABLE(second_inputs_at)[plane]));
#elif FORM == ADD_EACH
    value += start[ELEMENTS(TABLE(second_inputs_at)[plane])];
#elif FORM == MUL_EACH
    value *= start[ELEMENTS(TABLE(second_inputs_at)[plane])];
#elif FORM == AFFINE
    value = NUMBERS(scale_at)[plane] * value + NUMBERS(shift_at)[plane];
#else
    value = LOAD(NUMBERS(scale_at) + at) * value + LOAD(NUMBERS(shift_at) + at);
#endif
    value = masked(finished(value, low, high), TABLE(mask_at) + at);
    STORE(value, image + ELEMENTS(TABLE(outputs_at)[plane]));
}
