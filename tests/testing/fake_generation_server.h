// A Generation and Health server in this process that plays scripts and remembers what it was asked.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/server.h"
#include "proto/spotlight/v1/generation.grpc.pb.h"

namespace spotlight::testing {

// One GenerateStream call: the messages in order, then the status. `hold_open` waits for the call's end in between.
struct StreamScript {
  std::vector<v1::GenerateStreamResponse> messages;
  grpc::Status status;
  bool hold_open = false;
};

// Listens on a free port of 127.0.0.1 until destroyed. Thread-safe; the scripted answers are set before the calls come.
class FakeGenerationServer {
 public:
  FakeGenerationServer();
  ~FakeGenerationServer();
  FakeGenerationServer(const FakeGenerationServer&) = delete;
  FakeGenerationServer& operator=(const FakeGenerationServer&) = delete;

  const std::string& address() const { return address_; }

  // Calls play the scripts in the order added; one without a script ends with INTERNAL.
  void AddStream(StreamScript script);
  // What every unary call ends with.
  void set_unary_status(grpc::Status status);
  void set_model_info(const v1::GetModelInfoResponse& info);
  void set_server_info(const v1::GetServerInfoResponse& info);
  void set_loads(const v1::GetLoadsResponse& loads);
  void set_health(grpc::health::v1::HealthCheckResponse::ServingStatus health);  // SERVING until then
  void set_tokens(const v1::TokenizeResponse& tokens);
  void set_text(const std::string& text);

  std::vector<v1::GenerateRequest> generate_requests() const;
  std::vector<v1::TokenizeRequest> tokenize_requests() const;
  std::vector<v1::DetokenizeRequest> detokenize_requests() const;
  std::vector<std::string> aborted() const;
  std::vector<std::string> health_services() const;
  // Waits until that many held calls were cancelled; false when that takes unreasonably long.
  bool WaitForCancelledStreams(int count) const;

 private:
  class GenerationService;
  class HealthService;
  class Stream;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::deque<StreamScript> scripts_;
  grpc::Status unary_status_;
  v1::GetModelInfoResponse model_info_;
  v1::GetServerInfoResponse server_info_;
  v1::GetLoadsResponse loads_;
  v1::TokenizeResponse tokens_;
  v1::DetokenizeResponse text_;
  grpc::health::v1::HealthCheckResponse health_;
  std::vector<v1::GenerateRequest> generate_requests_;
  std::vector<v1::TokenizeRequest> tokenize_requests_;
  std::vector<v1::DetokenizeRequest> detokenize_requests_;
  std::vector<std::string> aborted_;
  std::vector<std::string> health_services_;
  int cancelled_streams_ = 0;

  std::unique_ptr<GenerationService> generation_;
  std::unique_ptr<HealthService> health_service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

// A message that adds text and one token.
v1::GenerateStreamResponse TextMessage(const std::string& text, int token_id);
// A last message with figures: 5 prompt and 3 completion tokens, 40 tokens/s, dense for want of hash weights.
v1::GenerateStreamResponse LastMessage(v1::FinishReason reason);

}  // namespace spotlight::testing
