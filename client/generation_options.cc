#include "client/generation_options.h"

#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace spotlight::client {
namespace {

constexpr v1::RetrievalMode kModes[] = {v1::RETRIEVAL_MODE_AUTO, v1::RETRIEVAL_MODE_SPARSE, v1::RETRIEVAL_MODE_DENSE};

OptionGroup SamplingOptions(v1::Sampling* sampling) {
  return {"Sampling (default: the model's generation config)",
          {Real("temperature", "T", AtLeast(0), "0 is greedy", [=](double t) { sampling->set_temperature(t); }),
           Real("top-p", "P", AboveUpTo(0, 1), "keep the likeliest tokens that sum to P",
                [=](double p) { sampling->set_top_p(p); }),
           Integer("top-k", "K", AtLeast(0), "keep the K likeliest tokens; 0 is off",
                   [=](int32_t k) { sampling->set_top_k(k); }),
           Real("min-p", "P", Between(0, 1), "drop tokens less likely than P times the likeliest; default 0",
                [=](double p) { sampling->set_min_p(p); }),
           Real("repetition-penalty", "R", Above(0), "over prompt and output; 1 is off",
                [=](double r) { sampling->set_repetition_penalty(r); }),
           Real("presence-penalty", "X", Between(-2, 2), "over the output; default 0",
                [=](double x) { sampling->set_presence_penalty(x); }),
           Real("frequency-penalty", "X", Between(-2, 2), "over the output; default 0",
                [=](double x) { sampling->set_frequency_penalty(x); }),
           Option{"logit-bias", "ID=X", "add X to a token's logit, -100 to 100; may be given again",
                  [=](const std::string& value) -> absl::Status {
                    const std::pair<std::string, std::string> parts = absl::StrSplit(value, absl::MaxSplits('=', 1));
                    int32_t id = 0;
                    float bias = 0;
                    if (!absl::SimpleAtoi(parts.first, &id) || id < 0 || !absl::SimpleAtof(parts.second, &bias) ||
                        !Between(-100, 100).Contains(bias)) {
                      return absl::InvalidArgumentError(
                          absl::StrCat("takes TOKEN_ID=NUMBER with a number of -100 to 100, got '", value, "'"));
                    }
                    (*sampling->mutable_logit_bias())[id] = bias;
                    return absl::OkStatus();
                  }},
           UnsignedInteger("seed", "S", "the same request with the same seed gives the same tokens; default: drawn",
                           [=](uint64_t seed) { sampling->set_seed(seed); })}};
}

OptionGroup StoppingOptions(v1::Stopping* stopping) {
  return {"Stopping",
          {Integer("max-tokens", "N", AtLeast(1), "at most so many; default: as many as the context holds",
                   [=](int32_t n) { stopping->set_max_tokens(n); }),
           Integer("min-tokens", "N", AtLeast(0), "no stop before so many; default 0",
                   [=](int32_t n) { stopping->set_min_tokens(n); }),
           Text("stop", "TEXT", "stop at this text, taken as it is ($'\\n' is a newline in bash); may be given again",
                [=](std::string text) { stopping->add_stop(std::move(text)); }),
           Integer("stop-token-id", "ID", AtLeast(0), "stop at this token; may be given again",
                   [=](int32_t id) { stopping->add_stop_token_ids(id); }),
           Switch("include-stop", "keep the stop text in the output", [=] { stopping->set_include_stop(true); }),
           Switch("ignore-eos", "go on past the model's end of sequence", [=] { stopping->set_ignore_eos(true); })}};
}

}  // namespace

std::vector<OptionGroup> GenerationOptions(v1::GenerateRequest* request) {
  v1::Retrieval* retrieval = request->mutable_retrieval();
  OptionGroup retrieval_options{
      "Retrieval",
      {Choice("retrieval", {"auto", "sparse", "dense"},
              "auto is sparse where it gains; sparse at any context length; default auto",
              [=](size_t choice) { retrieval->set_mode(kModes[choice]); }),
       Real("budget", "RATIO", AboveUpTo(0, 1), "share of the context to attend to; default: the server's",
            [=](double ratio) { retrieval->set_budget_ratio(ratio); }),
       Integer("min-selected", "N", Between(1, 1 << 20), "select at least so many tokens; default 64",
               [=](int32_t n) { retrieval->set_min_tokens(n); }),
       Integer("sink-tokens", "N", Between(0, 1 << 20), "first tokens that are always attended to; default 4",
               [=](int32_t n) { retrieval->set_sink_tokens(n); }),
       Integer("recent-tokens", "N", Between(1, 1 << 20), "latest tokens that are always attended to; default 64",
               [=](int32_t n) { retrieval->set_recent_tokens(n); }),
       Switch("no-retrieval-stats", "do not report what retrieval did", [=] { retrieval->set_return_stats(false); })}};
  OptionGroup request_options{"Request",
                              {Text("model", "NAME", "refuse to run on another model; default: the served one",
                                    [=](std::string name) { request->set_model(std::move(name)); }),
                               Integer("priority", "N", Between(-100, 100), "higher ones start first; default 0",
                                       [=](int32_t p) { request->set_priority(p); }),
                               Text("cache-salt", "TEXT", "share cached prompts with requests of this salt only",
                                    [=](std::string salt) { request->set_cache_salt(std::move(salt)); }),
                               Switch("bypass-prefix-cache", "neither use cached prompts nor leave this one",
                                      [=] { request->set_bypass_prefix_cache(true); })}};
  return {SamplingOptions(request->mutable_sampling()), StoppingOptions(request->mutable_stopping()),
          std::move(retrieval_options), std::move(request_options)};
}

}  // namespace spotlight::client
