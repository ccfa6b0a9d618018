/* Included before every file of the reference: its settings, instead of its headers for Mynewt and Zephyr. */
#define H_IMG_MGMT_CONFIG_
#define IMG_MGMT_UPDATABLE_IMAGE_NUMBER 1
#define IMG_MGMT_FRUGAL_LIST 0
#define IMG_MGMT_UL_CHUNK_SIZE 512
#define IMG_MGMT_VERBOSE_ERR 0
#define IMG_MGMT_LAZY_ERASE 0
#define IMG_MGMT_DUMMY_HDR 0
#define IMG_MGMT_BOOT_CURR_SLOT 0
#define OS_MGMT_RESET_MS 0
#define OS_MGMT_TASKSTAT 0
#define OS_MGMT_ECHO 1
#define OS_MGMT_DATETIME 0
#define DATETIME_BUFSIZE 40
#define CBORATTR_MAX_SIZE 512
#define MYNEWT_VAL(name) 0
