/* The cheapest server a hub can start: it listens where JUPYTERHUB_SERVICE_URL says and
 * answers 200 to everything, so that a bench of starting servers measures the hub. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char ANSWER[] =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-JupyterHub-Version: 6.1.1\r\n"
    "Content-Length: 2\r\nConnection: close\r\n\r\n{}";

int main(void) {
    const char *url = getenv("JUPYTERHUB_SERVICE_URL");
    const char *host_end = url ? strchr(url + strlen("http://"), ':') : NULL;
    if (!host_end) {
        fprintf(stderr, "JUPYTERHUB_SERVICE_URL has no port\n");
        return 2;
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int yes = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(host_end + 1))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64)) {
        perror("listen");
        return 1;
    }
    for (;;) {
        int peer = accept(listener, NULL, NULL);
        if (peer < 0)
            continue;
        char request[4096];
        if (read(peer, request, sizeof request) > 0 && write(peer, ANSWER, sizeof ANSWER - 1) < 0)
            perror("write");
        shutdown(peer, SHUT_WR);
        close(peer);
    }
}
