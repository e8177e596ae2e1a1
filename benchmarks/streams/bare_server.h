// What gRPC alone costs: a server of one thread and one completion queue that reads no request and writes prepared
// bytes. The anchor of wire_overhead, answering the same client: no engine, no tokens, no reactor, no lock.
#pragma once

#include <cstdint>
#include <memory>

namespace spotlight::benchmarks {

class BareServer {
 public:
  BareServer();
  ~BareServer();
  BareServer(const BareServer&) = delete;
  BareServer& operator=(const BareServer&) = delete;

  int port() const;
  // For the next `num_streams` calls: once all are there, a message of one token for each `num_tokens` times, every
  // `step_seconds`, in which the calling thread spins as an engine would compute. Returns when the last has ended.
  void Serve(int32_t num_streams, int32_t num_tokens, double step_seconds);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace spotlight::benchmarks
