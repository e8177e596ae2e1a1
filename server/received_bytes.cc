#include "server/received_bytes.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <algorithm>

#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace spotlight::server {
namespace {

int PortOf(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
  if (address.ss_family == AF_INET6) return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
  return -1;
}

std::string NameOf(const sockaddr_storage& address) {
  char host[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, host, sizeof(host));
  } else {
    const in6_addr& v6 = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
    if (IN6_IS_ADDR_V4MAPPED(&v6)) {  // as gRPC calls them
      inet_ntop(AF_INET, v6.s6_addr + 12, host, sizeof(host));
    } else {
      inet_ntop(AF_INET6, &v6, host, sizeof(host));
    }
  }
  return absl::StrCat(host, " ", PortOf(address));
}

}  // namespace

std::string ConnectionOf(const std::string& peer) {
  const size_t scheme = peer.find(':');
  const size_t port = peer.rfind(':');
  if (!absl::StartsWith(peer, "ipv") || port <= scheme) return peer;
  std::string host = absl::StrReplaceAll(peer.substr(scheme + 1, port - scheme - 1),
                                         {{"%5B", ""}, {"%5D", ""}, {"[", ""}, {"]", ""}, {"%25", "%"}});
  host.resize(std::min(host.size(), host.find('%')));  // the network card of a link-local address
  return absl::StrCat(host, " ", peer.substr(port + 1));
}

std::unordered_map<std::string, int64_t> ReceivedBytes(int port) {
  std::unordered_map<std::string, int64_t> received;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc/self/fd"), closedir);
  if (folder == nullptr) return received;
  while (const dirent* const entry = readdir(folder.get())) {
    const int fd = atoi(entry->d_name);  // 0 for "." and "..", which has no port either
    sockaddr_storage address{};
    socklen_t size = sizeof(address);
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0 || PortOf(address) != port) continue;
    size = sizeof(address);
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) continue;  // the listening one
    tcp_info info{};
    size = sizeof(info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) continue;
    if (size < offsetof(tcp_info, tcpi_bytes_received) + sizeof(info.tcpi_bytes_received))
      continue;  // before Linux 4.1
    received[NameOf(address)] += static_cast<int64_t>(info.tcpi_bytes_received);
  }
  return received;
}

}  // namespace spotlight::server
