// What all kernels share. Build options give ELEMENT (the type of activations and weights), LANES (how many of them are
// a vector) and CONDITION (the integer type as wide as an element, which comparisons of vectors result in).
//
// A kernel's parameters are, in this order: the constants; the regions that it reads and writes, each followed by the
// elements that one image has there; the argument fields of its plan step as they are; and numbers of its own, of
// which `items` comes last. Fields that refer to memory are bytes into their region; fields that are floating-point
// numbers come as their bits. Work-item dimension 0 counts an image's work, dimension 1 the images.
//
// A multiply-add is written a * b + c: compilers fuse it where that is fast, while fma() and mad() may become calls.

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define VECTOR JOIN(ELEMENT, LANES)
#define TRUTHS JOIN(CONDITION, LANES)
#define LOAD_TRUTHS(table) JOIN(JOIN(convert_, CONDITION), LANES)(LOAD(table))
#define LOAD(pointer) JOIN(vload, LANES)(0, pointer)
#define STORE(value, pointer) JOIN(vstore, LANES)(value, 0, pointer)

typedef __global const int *Table;
typedef __global const ELEMENT *Numbers;

#define TABLE(field) ((Table)(constants + (field)))
#define NUMBERS(field) ((Numbers)(constants + (field)))

// The part of a region that belongs to this work-item's image, and an element in it from its offset in bytes.
#define IMAGE(region, image_elements) ((region) + (size_t)get_global_id(1) * (image_elements))
#define ELEMENTS(bytes) ((size_t)(bytes) / sizeof(ELEMENT))

// min(max(value, low), high); comparisons with a NaN are false, so that it stays a NaN as in torch.
static inline VECTOR clamped(VECTOR value, uint low, uint high) {
    const VECTOR floor_ = (VECTOR)((ELEMENT)as_float(low)), ceiling = (VECTOR)((ELEMENT)as_float(high));
    value = value < floor_ ? floor_ : value;
    return value > ceiling ? ceiling : value;
}

// The mask has -1 at positions inside the image and 0 on its border, which has to stay zero.
static inline VECTOR masked(VECTOR value, Table mask) {
    const TRUTHS inside = LOAD_TRUTHS(mask);
    return inside ? value : (VECTOR)(0);
}
