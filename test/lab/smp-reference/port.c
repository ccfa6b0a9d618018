/*
 * A host for the reference implementation of SMP (Apache mynewt-mcumgr): a board whose console is standard input and
 * output and whose two slots and boot state are files in the folder named by the first argument. It ends at a reset;
 * the next start is the next boot. CBOR is libcbor's.
 */
#include <arpa/inet.h>
#include <cbor.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "img_mgmt/image.h"
#include "img_mgmt/img_mgmt.h"
#include "img_mgmt/img_mgmt_impl.h"
#include "mgmt/mgmt.h"
#include "os_mgmt/os_mgmt.h"
#include "os_mgmt/os_mgmt_impl.h"
#include "smp/smp.h"

#define PACKET_BYTES 1024
#define LINE_BYTES 127

/* ---- CBOR ---- */

static int encoded(mgmt_cbor_encoder_t *enc, size_t bytes)
{
    if (bytes == 0)
        return MGMT_CBOR_ERR_NOMEM;
    enc->used += bytes;
    return MGMT_CBOR_OK;
}
#define ROOM(enc) (enc)->buffer + (enc)->used, (enc)->size - (enc)->used

int mgmt_cbor_encoder_init_buf(mgmt_cbor_encoder_t *enc, void *buf, size_t size)
{
    *enc = (mgmt_cbor_encoder_t){.buffer = buf, .size = size};
    return MGMT_CBOR_OK;
}
size_t mgmt_cbor_encoder_bytes_written(const mgmt_cbor_encoder_t *enc) { return enc->used; }
int mgmt_cbor_encode_uint(mgmt_cbor_encoder_t *enc, uint64_t value) { return encoded(enc, cbor_encode_uint(value, ROOM(enc))); }
int mgmt_cbor_encode_int(mgmt_cbor_encoder_t *enc, int64_t value)
{
    if (value >= 0)
        return mgmt_cbor_encode_uint(enc, (uint64_t)value);
    return encoded(enc, cbor_encode_negint((uint64_t)(-1 - value), ROOM(enc)));
}
static int content(mgmt_cbor_encoder_t *enc, const void *data, size_t len)
{
    if (enc->size - enc->used < len)
        return MGMT_CBOR_ERR_NOMEM;
    memcpy(enc->buffer + enc->used, data, len);
    enc->used += len;
    return MGMT_CBOR_OK;
}
int mgmt_cbor_encode_text(mgmt_cbor_encoder_t *enc, const char *text, size_t len)
{
    int rc = encoded(enc, cbor_encode_string_start(len, ROOM(enc)));
    return rc ? rc : content(enc, text, len);
}
int mgmt_cbor_encode_text_z(mgmt_cbor_encoder_t *enc, const char *text) { return mgmt_cbor_encode_text(enc, text, strlen(text)); }
int mgmt_cbor_encode_bytes(mgmt_cbor_encoder_t *enc, const uint8_t *data, size_t len)
{
    int rc = encoded(enc, cbor_encode_bytestring_start(len, ROOM(enc)));
    return rc ? rc : content(enc, data, len);
}
int mgmt_cbor_encode_bool(mgmt_cbor_encoder_t *enc, bool value) { return encoded(enc, cbor_encode_bool(value, ROOM(enc))); }
int mgmt_cbor_encode_null(mgmt_cbor_encoder_t *enc) { return encoded(enc, cbor_encode_null(ROOM(enc))); }
int mgmt_cbor_map_begin(mgmt_cbor_encoder_t *enc) { return encoded(enc, cbor_encode_indef_map_start(ROOM(enc))); }
int mgmt_cbor_map_end(mgmt_cbor_encoder_t *enc) { return encoded(enc, cbor_encode_break(ROOM(enc))); }
int mgmt_cbor_array_begin(mgmt_cbor_encoder_t *enc) { return encoded(enc, cbor_encode_indef_array_start(ROOM(enc))); }
int mgmt_cbor_array_end(mgmt_cbor_encoder_t *enc) { return encoded(enc, cbor_encode_break(ROOM(enc))); }

static cbor_item_t *loaded; /* the request under way */

int mgmt_cbor_decoder_init(mgmt_cbor_decoder_t *dec, const void *buf, size_t len)
{
    struct cbor_load_result result;
    if (loaded)
        cbor_decref(&loaded);
    loaded = cbor_load(buf, len, &result);
    *dec = (mgmt_cbor_decoder_t){.item = loaded};
    return loaded ? MGMT_CBOR_OK : MGMT_CBOR_ERR_INVALID;
}
bool mgmt_cbor_dec_is_map(const mgmt_cbor_decoder_t *dec) { return dec->item && cbor_isa_map(dec->item); }
static cbor_item_t *child_at(const cbor_item_t *parent, size_t at)
{
    if (cbor_isa_array(parent))
        return at < cbor_array_size(parent) ? cbor_array_handle(parent)[at] : NULL;
    if (at / 2 >= cbor_map_size(parent))
        return NULL;
    return at % 2 ? cbor_map_handle(parent)[at / 2].value : cbor_map_handle(parent)[at / 2].key;
}
int mgmt_cbor_dec_enter_container(mgmt_cbor_decoder_t *dec, mgmt_cbor_decoder_t *child)
{
    if (!dec->item || !(cbor_isa_map(dec->item) || cbor_isa_array(dec->item)))
        return MGMT_CBOR_ERR_INVALID;
    *child = (mgmt_cbor_decoder_t){.item = child_at(dec->item, 0), .parent = dec->item};
    return MGMT_CBOR_OK;
}
int mgmt_cbor_dec_advance(mgmt_cbor_decoder_t *dec)
{
    dec->at += 1;
    dec->item = dec->parent ? child_at(dec->parent, dec->at) : NULL;
    return MGMT_CBOR_OK;
}
int mgmt_cbor_dec_leave_container(mgmt_cbor_decoder_t *dec, mgmt_cbor_decoder_t *child)
{
    (void)child;
    return mgmt_cbor_dec_advance(dec);
}
bool mgmt_cbor_dec_is_valid(const mgmt_cbor_decoder_t *dec) { return dec->item != NULL; }
bool mgmt_cbor_dec_at_end(const mgmt_cbor_decoder_t *dec) { return dec->item == NULL; }
int mgmt_cbor_dec_type(const mgmt_cbor_decoder_t *dec)
{
    const cbor_item_t *item = dec->item;
    if (!item) return MGMT_CBOR_TYPE_INVALID;
    if (cbor_isa_uint(item)) return MGMT_CBOR_TYPE_UINT;
    if (cbor_isa_negint(item)) return MGMT_CBOR_TYPE_INT;
    if (cbor_isa_bytestring(item)) return MGMT_CBOR_TYPE_BYTE_STRING;
    if (cbor_isa_string(item)) return MGMT_CBOR_TYPE_TEXT_STRING;
    if (cbor_isa_array(item)) return MGMT_CBOR_TYPE_ARRAY;
    if (cbor_isa_map(item)) return MGMT_CBOR_TYPE_MAP;
    if (cbor_is_bool(item)) return MGMT_CBOR_TYPE_BOOL;
    if (cbor_is_null(item)) return MGMT_CBOR_TYPE_NULL;
    return MGMT_CBOR_TYPE_INVALID;
}
int mgmt_cbor_dec_bool(const mgmt_cbor_decoder_t *dec, bool *out)
{
    *out = cbor_get_bool(dec->item);
    return MGMT_CBOR_OK;
}
int mgmt_cbor_dec_uint64(const mgmt_cbor_decoder_t *dec, uint64_t *out)
{
    if (!cbor_isa_uint(dec->item))
        return MGMT_CBOR_ERR_INVALID;
    *out = cbor_get_int(dec->item);
    return MGMT_CBOR_OK;
}
int mgmt_cbor_dec_int64(const mgmt_cbor_decoder_t *dec, int64_t *out)
{
    uint64_t value = cbor_get_int(dec->item);
    *out = cbor_isa_negint(dec->item) ? -1 - (int64_t)value : (int64_t)value;
    return MGMT_CBOR_OK;
}
int mgmt_cbor_dec_string_len(const mgmt_cbor_decoder_t *dec, size_t *len)
{
    *len = cbor_isa_string(dec->item) ? cbor_string_length(dec->item) : cbor_bytestring_length(dec->item);
    return MGMT_CBOR_OK;
}
int mgmt_cbor_dec_text_string_copy(const mgmt_cbor_decoder_t *dec, char *buf, size_t *len)
{
    size_t length = cbor_string_length(dec->item);
    if (!cbor_string_is_definite(dec->item) || length + 1 > *len)
        return MGMT_CBOR_ERR_OVERFLOW;
    memcpy(buf, cbor_string_handle(dec->item), length);
    buf[length] = '\0';
    *len = length;
    return MGMT_CBOR_OK;
}
int mgmt_cbor_dec_byte_string_copy(const mgmt_cbor_decoder_t *dec, uint8_t *buf, size_t *len)
{
    size_t length = cbor_bytestring_length(dec->item);
    if (!cbor_bytestring_is_definite(dec->item) || length > *len)
        return MGMT_CBOR_ERR_OVERFLOW;
    memcpy(buf, cbor_bytestring_handle(dec->item), length);
    *len = length;
    return MGMT_CBOR_OK;
}

/* ---- flash: slot0, slot1 and state in the working folder ---- */

static const char *const SLOTS[] = {"slot0", "slot1"};

static int state_of_boot(void)
{
    FILE *file = fopen("state", "r");
    int state = file ? fgetc(file) - '0' : IMG_MGMT_SWAP_TYPE_NONE;
    if (file)
        fclose(file);
    return state;
}
static int write_state(int state)
{
    FILE *file = fopen("state", "w");
    if (!file)
        return MGMT_ERR_EUNKNOWN;
    fputc('0' + state, file);
    return fclose(file) ? MGMT_ERR_EUNKNOWN : 0;
}
/* As MCUboot: a test swaps once and is undone by the next boot unless it was confirmed. */
static void boot(void)
{
    int state = state_of_boot();
    if (state == IMG_MGMT_SWAP_TYPE_NONE)
        return;
    rename(SLOTS[0], "swap");
    rename(SLOTS[1], SLOTS[0]);
    rename("swap", SLOTS[1]);
    write_state(state == IMG_MGMT_SWAP_TYPE_TEST ? IMG_MGMT_SWAP_TYPE_REVERT : IMG_MGMT_SWAP_TYPE_NONE);
}
int img_mgmt_impl_swap_type(int slot)
{
    (void)slot;
    return state_of_boot();
}
int img_mgmt_impl_write_pending(int slot, bool permanent)
{
    (void)slot;
    return write_state(permanent ? IMG_MGMT_SWAP_TYPE_PERM : IMG_MGMT_SWAP_TYPE_TEST);
}
int img_mgmt_impl_write_confirmed(void) { return write_state(IMG_MGMT_SWAP_TYPE_NONE); }
int img_mgmt_impl_read(int slot, unsigned int offset, void *dst, unsigned int bytes)
{
    FILE *file = fopen(SLOTS[slot], "rb");
    memset(dst, 0xff, bytes);
    if (file && fseek(file, (long)offset, SEEK_SET) == 0 && fread(dst, 1, bytes, file) < bytes && ferror(file)) {
        fclose(file);
        return MGMT_ERR_EUNKNOWN;
    }
    if (file)
        fclose(file);
    return 0;
}
int img_mgmt_impl_write_image_data(unsigned int offset, const void *data, unsigned int bytes, bool last)
{
    FILE *file = fopen(SLOTS[1], offset == 0 ? "wb" : "r+b");
    (void)last;
    if (!file)
        return MGMT_ERR_EUNKNOWN;
    size_t written = fseek(file, (long)offset, SEEK_SET) == 0 ? fwrite(data, 1, bytes, file) : 0;
    return fclose(file) || written < bytes ? MGMT_ERR_EUNKNOWN : 0;
}
int img_mgmt_impl_erase_slot(void)
{
    unlink(SLOTS[1]);
    g_img_mgmt_state.area_id = -1;
    return 0;
}
int img_mgmt_impl_erase_image_data(unsigned int offset, unsigned int bytes)
{
    (void)offset, (void)bytes;
    unlink(SLOTS[1]);
    return 0;
}
int img_mgmt_impl_erased_val(int slot, uint8_t *value)
{
    (void)slot;
    *value = 0xff;
    return 0;
}
/* The SMP specification, "Image upload": a first piece of the same hash is answered with where to go on. */
int img_mgmt_impl_upload_inspect(const struct img_mgmt_upload_req *req, struct img_mgmt_upload_action *action,
                                 const char **reason)
{
    const struct img_mgmt_state *now = &g_img_mgmt_state;
    struct image_header header;
    bool under_way = now->area_id != -1;
    (void)reason;
    *action = (struct img_mgmt_upload_action){.size = now->size, .area_id = 1, .write_bytes = (int)req->data_len};
    if (req->off == 0) {
        if (req->size == (unsigned long long)-1 || req->data_len < sizeof header)
            return MGMT_ERR_EINVAL;
        memcpy(&header, req->img_data, sizeof header);
        if (header.ih_magic != IMAGE_MAGIC)
            return MGMT_ERR_EINVAL;
        if (under_way && req->data_sha_len > 0 && req->data_sha_len == now->data_sha_len &&
            memcmp(req->data_sha, now->data_sha, req->data_sha_len) == 0)
            return 0;
        if (img_mgmt_slot_in_use(1))
            return MGMT_ERR_ENOMEM;
        action->size = req->size;
        action->erase = true;
    } else {
        if (req->off == (unsigned long long)-1 || !under_way)
            return MGMT_ERR_EINVAL;
        if (req->off != now->off)
            return 0;
    }
    if (req->off + req->data_len > action->size)
        return MGMT_ERR_EINVAL;
    action->proceed = true;
    return 0;
}
int img_mgmt_impl_log_upload_start(int status) { return status; }
int img_mgmt_impl_log_upload_done(int status, const uint8_t *hash) { return (void)hash, status; }
int img_mgmt_impl_log_pending(int status, const uint8_t *hash) { return (void)hash, status; }
int img_mgmt_impl_log_confirm(int status, const uint8_t *hash) { return (void)hash, status; }

static bool resets;
int os_mgmt_impl_reset(unsigned int delay_ms)
{
    (void)delay_ms;
    resets = true;
    return 0;
}

/* ---- buffers ---- */

struct buffer {
    size_t length;
    uint8_t bytes[PACKET_BYTES];
};
static struct buffer answer;

static void *alloc_rsp(const void *request, void *arg)
{
    (void)request, (void)arg;
    answer.length = 0;
    return &answer;
}
static void trim_front(void *buf, size_t len, void *arg)
{
    struct buffer *buffer = buf;
    (void)arg;
    if (len > buffer->length)
        len = buffer->length;
    buffer->length -= len;
    memmove(buffer->bytes, buffer->bytes + len, buffer->length);
}
static void reset_buf(void *buf, void *arg)
{
    (void)arg;
    ((struct buffer *)buf)->length = 0;
}
static int write_at(void *tx, size_t offset, const void *data, size_t len, void *arg)
{
    (void)arg;
    if (offset + len > PACKET_BYTES)
        return MGMT_CBOR_ERR_NOMEM;
    memcpy((uint8_t *)tx + offset, data, len);
    return 0;
}
static int init_reader(void *buf, void *arg, const void **bytes, size_t *length)
{
    struct buffer *buffer = buf;
    (void)arg;
    *bytes = buffer->bytes;
    *length = buffer->length;
    return 0;
}
static int init_writer(void *buf, void *arg, void **bytes, size_t *size)
{
    (void)arg;
    *bytes = ((struct buffer *)buf)->bytes;
    *size = PACKET_BYTES;
    return 0;
}
static void free_buf(void *buf, void *arg) { (void)buf, (void)arg; }

/* ---- console framing ---- */

static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static uint16_t crc16(const uint8_t *bytes, size_t length)
{
    uint16_t crc = 0;
    for (size_t i = 0; i < length; i += 1) {
        crc ^= (uint16_t)(bytes[i] << 8);
        for (int bit = 0; bit < 8; bit += 1)
            crc = (uint16_t)(crc & 0x8000 ? (crc << 1) ^ 0x1021 : crc << 1);
    }
    return crc;
}

static int send_answer(struct smp_streamer *streamer, void *buf, void *arg)
{
    static uint8_t raw[PACKET_BYTES + 4];
    const struct buffer *buffer = buf;
    const struct mgmt_hdr *header = (const void *)buffer->bytes;
    size_t length = sizeof *header + ntohs(header->nh_len);
    uint16_t crc = crc16(buffer->bytes, length);
    (void)streamer, (void)arg;
    raw[0] = (uint8_t)((length + 2) >> 8);
    raw[1] = (uint8_t)(length + 2);
    memcpy(raw + 2, buffer->bytes, length);
    raw[2 + length] = (uint8_t)(crc >> 8);
    raw[3 + length] = (uint8_t)crc;
    for (size_t at = 0; at < length + 4;) {
        fputs(at == 0 ? "\x06\x09" : "\x04\x14", stdout);
        for (size_t digits = 0; digits + 4 <= LINE_BYTES - 3 && at < length + 4; digits += 4, at += 3) {
            size_t left = length + 4 - at;
            uint32_t three = (uint32_t)raw[at] << 16;
            if (left > 1) three |= (uint32_t)raw[at + 1] << 8;
            if (left > 2) three |= raw[at + 2];
            putchar(DIGITS[three >> 18]);
            putchar(DIGITS[three >> 12 & 63]);
            putchar(left > 1 ? DIGITS[three >> 6 & 63] : '=');
            putchar(left > 2 ? DIGITS[three & 63] : '=');
        }
        putchar('\n');
    }
    return fflush(stdout) ? MGMT_ERR_EUNKNOWN : 0;
}

static struct buffer held; /* length, packet and CRC of the packet that comes in */
static struct buffer request;

/* One line of the console; true when it ended a packet, which is in `request` then. */
static bool take_line(const char *line)
{
    if (line[0] == 6 && line[1] == 9)
        held.length = 0;
    else if (line[0] != 4 || line[1] != 20 || held.length == 0)
        return false;
    uint32_t bits = 0;
    int count = 0;
    for (const char *digit = line + 2; *digit && *digit != '='; digit += 1) {
        const char *found = strchr(DIGITS, *digit);
        if (!found)
            break;
        bits = bits << 6 | (uint32_t)(found - DIGITS);
        count += 6;
        if (count >= 8 && held.length < sizeof held.bytes)
            held.bytes[held.length++] = (uint8_t)(bits >> (count -= 8));
    }
    if (held.length < 4)
        return false;
    size_t length = (size_t)held.bytes[0] << 8 | held.bytes[1];
    if (held.length < length + 2)
        return false;
    bool good = length > 2 && held.length == length + 2 && crc16(held.bytes + 2, length) == 0;
    if (good) {
        request.length = length - 2;
        memcpy(request.bytes, held.bytes + 2, request.length);
    }
    held.length = 0;
    return good;
}

int main(int count, char **arguments)
{
    static const struct mgmt_streamer_cfg config = {alloc_rsp, trim_front, reset_buf, write_at,
                                                    init_reader, init_writer, free_buf};
    static struct smp_streamer streamer = {.mgmt_stmr = {.cfg = &config}, .tx_rsp_cb = send_answer};
    char line[512];
    if (count != 2 || chdir(arguments[1]) != 0) {
        fputs("expected: the folder of the slots\n", stderr);
        return 2;
    }
    boot();
    g_img_mgmt_state.area_id = -1;
    os_mgmt_register_group();
    img_mgmt_register_group();
    puts("*** the application's own console line");
    fflush(stdout);
    while (!resets && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = '\0';
        if (take_line(line))
            smp_process_request_packet(&streamer, &request);
    }
    return 0;
}
