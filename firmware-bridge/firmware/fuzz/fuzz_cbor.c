/* The CBOR reader on any bytes, asked for things in any order; what it gives must lie within the bytes. */
#include <stdlib.h>
#include <string.h>

#include "../src/atedge_link.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void inside(const uint8_t *at, size_t length, const uint8_t *start, const uint8_t *end) {
  if (at < start || at > end || length > (size_t)(end - at)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
  if (size < 8) return 0;
  const uint8_t *start = input + 8, *end = input + size;
  atl_cursor cursor = {start, end, false};
  for (int i = 0; i < 8; i++) {
    size_t length = 0;
    atl_cursor value = cursor;
    switch (input[i] % 10) {
      case 0: atl_get_uint(&cursor); break;
      case 1: atl_get_int(&cursor); break;
      case 2: atl_get_scaled(&cursor, input[i] / 10); break;
      case 3: atl_get_bool(&cursor); break;
      case 4: {
        const char *text = atl_get_text(&cursor, &length);
        inside((const uint8_t *)text, length, start, end);
        break;
      }
      case 5: inside(atl_get_bytes(&cursor, &length), length, start, end); break;
      case 6: atl_get_array(&cursor); break;
      case 7: atl_get_map(&cursor); break;
      case 8: atl_skip(&cursor); break;
      default:
        if (atl_find(&cursor, "on", &value)) inside(value.at, 0, start, end);
    }
    inside(cursor.at, 0, start, end);
    if (atl_failed(&cursor) && cursor.at != end) abort();
  }
  return 0;
}
