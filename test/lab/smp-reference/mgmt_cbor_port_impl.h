/* The reference's CBOR interface over libcbor. */
#include <stddef.h>
#include <stdint.h>

struct cbor_item_t;

struct mgmt_cbor_encoder {
    uint8_t *buffer;
    size_t size;
    size_t used;
};

struct mgmt_cbor_decoder {
    struct cbor_item_t *item;   /* NULL past the last one */
    struct cbor_item_t *parent; /* NULL at the top */
    size_t at;                  /* of the parent's items; a map counts keys and values */
};
