/* For a host: what the reference's own header takes from its systems. */
#include <arpa/inet.h>
