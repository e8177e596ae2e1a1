// What became of one request, as its client saw it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "grpcpp/support/status.h"

namespace spotlight::client::bench {

// Times are seconds since the start of the run. A request that got no token has no token times.
struct RequestRecord {
  double intended = 0;  // when the request was to be sent; closed loop: when it was sent
  double sent = 0;      // when it was
  double first_token = 0;
  double last_token = 0;
  double end = 0;             // its status was there
  std::vector<float> gaps;    // seconds between messages with tokens: one less than such messages
  int32_t prompt_tokens = 0;  // as the server counted, else as asked for
  int32_t output_tokens = 0;
  bool cancelled = false;     // by this client, on purpose
  double cancel_seconds = 0;  // from the cancel to the end
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string message;  // of the status

  bool completed() const { return !cancelled && code == grpc::StatusCode::OK; }
  bool failed() const { return !cancelled && code != grpc::StatusCode::OK; }
};

}  // namespace spotlight::client::bench
