#include "tests/soak/population.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/channel.h"
#include "client/generate_client.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "tests/soak/tiny_tokens.h"

namespace spotlight::soak {
namespace {

constexpr absl::Duration kSeverEvery = absl::Milliseconds(1500);

// Per mille.
constexpr int kShares[kNumBehaviours] = {300, 150, 150, 100, 80, 40, 100, 50, 30};

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
    case Behaviour::kStops:
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
  if (plan.behaviour == Behaviour::kStops) DrawStops(&plan.request);
  if (OneIn(3)) DrawSampling(&plan.request);
  return plan;
}

void Population::DrawStops(v1::GenerateRequest* request) {
  constexpr int kLetters = 32;
  constexpr float kBias = 100;  // over all else, whatever the model
  v1::Stopping* stopping = request->mutable_stopping();
  std::vector<int32_t> letters(kNumCharacters);
  std::iota(letters.begin(), letters.end(), 0);
  std::shuffle(letters.begin(), letters.end(), random_);
  letters.resize(kLetters);
  const int kinds = Uniform(1, 7);  // bits
  if ((kinds & 1) != 0) {
    for (int i = Uniform(1, 3); i > 0; --i) {
      std::string* stop = stopping->add_stop();
      for (int n = Uniform(1, 2); n > 0; --n) stop->push_back(CharacterOf(letters[Uniform(0, kLetters - 1)]));
    }
  }
  if ((kinds & 2) != 0) {
    for (int i = Uniform(1, 2); i > 0; --i) stopping->add_stop_token_ids(letters[Uniform(0, kLetters - 1)]);
  }
  if ((kinds & 4) != 0) stopping->set_ignore_eos(false);
  stopping->set_include_stop(OneIn(2));
  if (OneIn(3)) stopping->set_min_tokens(Uniform(1, stopping->max_tokens()));
  // Most write with few letters, so that they meet what they stop at.
  if (OneIn(4)) return;
  if (!stopping->ignore_eos()) letters.insert(letters.end(), std::begin(kEndsOfSequence), std::end(kEndsOfSequence));
  for (const int32_t id : letters) (*request->mutable_sampling()->mutable_logit_bias())[id] = kBias;
}

void Population::DrawSampling(v1::GenerateRequest* request) {
  v1::Sampling* sampling = request->mutable_sampling();
  if (OneIn(2)) sampling->set_temperature(OneIn(4) ? 0 : Real(0.2F, 2));
  if (OneIn(2)) sampling->set_top_k(Uniform(1, 100));
  if (OneIn(2)) sampling->set_top_p(Real(0.3F, 1));
  if (OneIn(4)) sampling->set_min_p(Real(0, 0.3F));
  if (OneIn(3)) sampling->set_repetition_penalty(Real(0.8F, 1.5F));
  if (OneIn(3)) sampling->set_presence_penalty(Real(-2, 2));
  if (OneIn(3)) sampling->set_frequency_penalty(Real(-2, 2));
  if (OneIn(2)) sampling->set_seed(random_());
  if (OneIn(3)) {
    for (int i = Uniform(1, 8); i > 0; --i) {
      sampling->mutable_logit_bias()->insert({Uniform(0, kVocabularySize - 1), Real(-5, 5)});
    }
  }
  if (OneIn(2) && !request->has_logprobs()) request->set_logprobs(Uniform(0, 5));
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
