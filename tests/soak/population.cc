#include "tests/soak/population.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/channel.h"
#include "client/generate_client.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace spotlight::soak {
namespace {

constexpr int kVocabularySize = 508;  // of the tiny model, without its special tokens
constexpr absl::Duration kSeverEvery = absl::Milliseconds(1500);

// Per mille.
constexpr int kShares[kNumBehaviours] = {450, 150, 100, 80, 40, 100, 50, 30};

std::unique_ptr<v1::Generation::Stub> OwnConnection(const std::string& address) {
  return v1::Generation::NewStub(client::CreateChannel(address, /*own_connection=*/true));
}

std::unique_ptr<v1::Generation::Stub> NarrowConnection(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4096);
  return v1::Generation::NewStub(grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

}  // namespace

Population::Population(const std::string& server_address, int server_port, int num_streams, uint64_t seed)
    : num_streams_(num_streams), random_(seed), proxy_(server_port), narrow_stub_(NarrowConnection(server_address)) {
  for (int i = 0; i < 4; ++i) stubs_.push_back(OwnConnection(server_address));
  for (int i = 0; i < 4; ++i) severed_stubs_.push_back(OwnConnection(proxy_.address()));
}

StreamPlan Population::NextPlan() {
  StreamPlan plan;
  int pick = Uniform(0, 999), behaviour = 0;
  while (pick >= kShares[behaviour]) pick -= kShares[behaviour++];
  plan.behaviour = static_cast<Behaviour>(behaviour);
  // Mixed sizes: most are short, some are long.
  const int size = Uniform(0, 99);
  const int prompt_tokens = size < 80 ? Uniform(1, 256) : size < 98 ? Uniform(256, 1500) : Uniform(1500, 4000);
  int output_tokens = Uniform(0, 9) < 8 ? Uniform(1, 120) : Uniform(120, 400);
  plan.request.set_request_id(absl::StrCat("soak-", num_started_));
  // A quarter shares the start of its prompt with others.
  const bool shares = Uniform(0, 3) == 0;
  for (int i = 0; i < prompt_tokens; ++i) {
    const int id = shares && i < prompt_tokens / 2 ? i * 7 % kVocabularySize : Uniform(0, kVocabularySize - 1);
    plan.request.mutable_token_ids()->add_ids(id);
  }
  switch (plan.behaviour) {
    case Behaviour::kCancels:
    case Behaviour::kAborts:
      plan.after = std::chrono::milliseconds(Uniform(0, 2000));
      break;
    case Behaviour::kDeadline:
      plan.after = std::chrono::milliseconds(Uniform(1, 3000));
      break;
    case Behaviour::kReadsSlowly:
      plan.after = std::chrono::milliseconds(Uniform(50, 400));
      plan.request.set_logprobs(20);
      break;
    case Behaviour::kStopsReading:
      plan.after = std::chrono::milliseconds(Uniform(1000, 4000));
      plan.request.set_logprobs(20);
      output_tokens = 3000;
      break;
    case Behaviour::kInvalid:
      plan.request.mutable_token_ids()->add_ids(999999);
      break;
    case Behaviour::kPatient:
    case Behaviour::kLosesNetwork:
      break;
  }
  plan.request.set_priority(Uniform(-2, 2));
  // One in eight asks for several samples, of fewer tokens each.
  if (plan.behaviour != Behaviour::kStopsReading && Uniform(0, 7) == 0) {
    const int num_samples = Uniform(2, 4);
    plan.request.mutable_sampling()->set_n(num_samples);
    output_tokens = std::max(1, output_tokens / num_samples);
  }
  plan.request.mutable_stopping()->set_max_tokens(output_tokens);
  plan.request.mutable_stopping()->set_ignore_eos(true);
  plan.request.set_return_token_ids(true);
  return plan;
}

void Population::StartOne() {
  StreamPlan plan = NextPlan();
  const bool is_narrow = plan.behaviour == Behaviour::kReadsSlowly || plan.behaviour == Behaviour::kStopsReading;
  v1::Generation::Stub* stub = plan.behaviour == Behaviour::kLosesNetwork
                                   ? severed_stubs_[num_started_ % severed_stubs_.size()].get()
                               : is_narrow ? narrow_stub_.get()
                                           : stubs_[num_started_ % stubs_.size()].get();
  ++num_started_;
  ClientStream::Start(std::move(plan), stub, &timer_, [this](StreamEnd end) {
    std::lock_guard<std::mutex> lock(mutex_);
    --num_running_;
    ends_.push_back(std::move(end));
    changed_.notify_one();
  });
}

int Population::num_running() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return num_running_;
}

bool Population::Run(absl::Duration duration, absl::Duration patience) {
  const absl::Time end = absl::Now() + duration;
  absl::Time next_sever = absl::Now() + kSeverEvery;
  while (absl::Now() < end) {
    int missing = 0;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait_for(lock, std::chrono::milliseconds(50), [this] { return num_running_ < num_streams_; });
      missing = num_streams_ - num_running_;
      num_running_ += missing;
    }
    for (int i = 0; i < missing; ++i) StartOne();
    if (absl::Now() >= next_sever) {
      proxy_.Sever();
      next_sever = absl::Now() + kSeverEvery;
    }
  }
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoMilliseconds(patience), [this] { return num_running_ == 0; });
}

}  // namespace spotlight::soak
