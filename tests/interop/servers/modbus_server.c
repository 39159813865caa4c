/* A Modbus server made of libmodbus: one fixed register map, over TCP on loopback (up to 32 clients) or RTU on a serial device.
 *
 *   modbus_server PORT        0 = any free port; prints `PORT n` once it listens, then serves until it is killed
 *   modbus_server DEVICE      RTU, 19200 baud, 8N1 (a pseudo terminal has no parity), unit 1; prints `PORT 0` once it is open
 *
 * Over TCP any unit id is answered. Addresses are zero-based; what lies outside the map answers exception 2.
 *
 *   holding registers (256)                            input registers (64)
 *     0-1    float32 ABCD   21.5                         0-1   uint32 ABCD  requests answered so far
 *     2-3    float32 CDAB   -7.25                        2     uint16       1000
 *     4      int16          -1234                        3     int16        -1
 *     5      uint16         54321                        4-5   float32 ABCD 0.1f
 *     6-7    uint32 ABCD    3000000000                 coils 0-9:           1 0 1 1 0 0 1 0 1 1
 *     8-9    int32 ABCD     -100000                    discrete inputs 0-9: 0 1 1 0 1 0 0 1 0 1
 *     10-13  float64 ABCD   3.141592653589793          (64 of either; the rest is 0)
 *     14-17  uint64 ABCD    9007199254740993
 *     18-21  text           "GENBA-01"
 *     22-23  float32 ABCD   NaN
 *     24-25  float32 BADC   1.5
 *     26-27  float32 DCBA   -2.75
 *     100-227 uint16        the register's own number
 *
 * Build: cc modbus_server.c $(pkg-config --cflags --libs libmodbus) -o modbus_server
 */
#include <arpa/inet.h>
#include <errno.h>
#include <modbus.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CLIENTS = 32 };

/* The bits of a number, highest word first, into registers. */
static void put(uint16_t *at, int words, uint64_t bits) {
    for (int i = 0; i < words; i++)
        at[i] = (uint16_t)(bits >> 16 * (words - 1 - i));
}

/* A float32 into two registers; `order` names its bytes from the highest, as they follow on the wire. */
static void put_float(uint16_t *at, float value, const char *order) {
    uint32_t bits;
    uint8_t wire[4];

    memcpy(&bits, &value, sizeof bits);
    for (int i = 0; i < 4; i++)
        wire[i] = (uint8_t)(bits >> 8 * (3 - (order[i] - 'A')));
    at[0] = (uint16_t)(wire[0] << 8 | wire[1]);
    at[1] = (uint16_t)(wire[2] << 8 | wire[3]);
}

static void fill(modbus_mapping_t *map) {
    static const uint8_t coils[] = {1, 0, 1, 1, 0, 0, 1, 0, 1, 1}, inputs[] = {0, 1, 1, 0, 1, 0, 0, 1, 0, 1};
    uint16_t *hr = map->tab_registers, *ir = map->tab_input_registers;
    double pi = 3.141592653589793;
    uint64_t pi_bits;

    memcpy(&pi_bits, &pi, sizeof pi);
    put_float(hr, 21.5f, "ABCD");
    put_float(hr + 2, -7.25f, "CDAB");
    hr[4] = (uint16_t)-1234;
    hr[5] = 54321;
    put(hr + 6, 2, 3000000000u);
    put(hr + 8, 2, (uint32_t)-100000);
    put(hr + 10, 4, pi_bits);
    put(hr + 14, 4, 9007199254740993u);
    put(hr + 18, 4, 0x47454E42412D3031u);
    put(hr + 22, 2, 0x7FC00000u);
    put_float(hr + 24, 1.5f, "BADC");
    put_float(hr + 26, -2.75f, "DCBA");
    for (uint16_t i = 100; i < 228; i++)
        hr[i] = i;
    ir[2] = 1000;
    ir[3] = (uint16_t)-1;
    put_float(ir + 4, 0.1f, "ABCD");
    memcpy(map->tab_bits, coils, sizeof coils);
    memcpy(map->tab_input_bits, inputs, sizeof inputs);
}

static int serve_line(const char *device, modbus_mapping_t *map) {
    modbus_t *ctx = modbus_new_rtu(device, 19200, 'N', 8, 1);
    uint32_t answered = 0;

    if (!ctx || !map || modbus_set_slave(ctx, 1) < 0 || modbus_connect(ctx) < 0) {
        fprintf(stderr, "cannot open %s: %s\n", device, modbus_strerror(errno));
        return 1;
    }
    fill(map);
    puts("PORT 0");
    fflush(stdout);
    for (;;) {
        uint8_t query[MODBUS_RTU_MAX_ADU_LENGTH];
        int length;
        put(map->tab_input_registers, 2, answered);
        length = modbus_receive(ctx, query);
        if (length > 0 && modbus_reply(ctx, query, length, map) >= 0)
            answered++;
    }
}

int main(int argc, char **argv) {
    modbus_t *ctx = modbus_new_tcp("127.0.0.1", argc > 1 ? atoi(argv[1]) : 0);
    modbus_mapping_t *map = modbus_mapping_new(64, 64, 256, 64);
    struct pollfd fds[CLIENTS + 1] = {{0}};
    struct sockaddr_in bound;
    socklen_t size = sizeof bound;
    uint32_t answered = 0;
    int used = 1;

    if (argc > 1 && argv[1][0] == '/')
        return serve_line(argv[1], map);
    if (!ctx || !map || (fds[0].fd = modbus_tcp_listen(ctx, CLIENTS)) < 0) {
        fprintf(stderr, "cannot listen: %s\n", modbus_strerror(errno));
        return 1;
    }
    fill(map);
    getsockname(fds[0].fd, (struct sockaddr *)&bound, &size);
    printf("PORT %d\n", ntohs(bound.sin_port));
    fflush(stdout);
    fds[0].events = POLLIN;
    for (;;) {
        if (poll(fds, (nfds_t)used, -1) < 0)
            return 1;
        for (int i = used - 1; i > 0; i--) {
            uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
            int length;
            if (!fds[i].revents)
                continue;
            modbus_set_socket(ctx, fds[i].fd);
            put(map->tab_input_registers, 2, answered);
            length = modbus_receive(ctx, query);
            if (length > 0 && modbus_reply(ctx, query, length, map) >= 0)
                answered++;
            else if (length < 0) { /* gone: the last one takes its place */
                close(fds[i].fd);
                fds[i] = fds[--used];
            }
        }
        if (fds[0].revents && used <= CLIENTS) {
            int client = accept(fds[0].fd, NULL, NULL);
            if (client >= 0)
                fds[used++] = (struct pollfd){.fd = client, .events = POLLIN};
        }
    }
}
