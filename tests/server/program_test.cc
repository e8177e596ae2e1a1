#include "server/program.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/reflection.h"
#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "server/flags.h"
#include "server/request_log.h"
#include "tests/testing/fake_engine.h"

namespace spotlight::server {
namespace {

absl::StatusOr<CommandLine> Parse(std::vector<const char*> words) {
  absl::FlagSaver saver;
  words.insert(words.begin(), "spotlight-server");
  return ParseCommandLine(static_cast<int>(words.size()), words.data());
}

std::string Error(const std::vector<const char*>& words) {
  return std::string(Parse(words).status().message());
}

int RunWith(std::vector<const char*> words, const EngineLoader& loader) {
  absl::FlagSaver saver;
  words.insert(words.begin(), "spotlight-server");
  return RunProgram(static_cast<int>(words.size()), words.data(), loader);
}

absl::StatusOr<engine::LoadedEngine> NeverLoaded(const engine::LoadOptions&, engine::StatsObserver*) {
  ADD_FAILURE() << "loaded";
  return absl::InternalError("not to be called");
}

TEST(HelpTextTest, ListsEveryFlagOfTheProgram) {
  const std::string help = HelpText();
  int num_flags = 0;
  for (const auto& [name, flag] : absl::GetAllFlags()) {
    if (!absl::StrContains(flag->Filename(), "server/")) continue;
    ++num_flags;
    const std::string dashed = absl::StrReplaceAll(name, {{"_", "-"}});
    EXPECT_TRUE(absl::StrContains(help, "--" + dashed) || absl::StrContains(help, "--[no-]" + dashed)) << dashed;
  }
  EXPECT_GT(num_flags, 20);
  for (const char* group : {"\nModel\n", "\nNetwork\n", "\nCache and scheduling\n", "\nRetrieval\n",
                            "\nRetrieval quality\n", "\nMetrics\n", "\nLifecycle\n"}) {
    EXPECT_TRUE(absl::StrContains(help, group)) << group;
  }
  EXPECT_TRUE(absl::StrContains(help, "(default 127.0.0.1:50051)")) << help;
}

TEST(CommandLineTest, FillsTheOptions) {
  const auto line =
      Parse({"--model", "/models/tiny/", "--max-tokens-in-cache=4096", "--allow-untrained-hash", "--reflection=off",
             "--budget=0.05", "--dtype=fp32", "--random-weights=7", "--listen=[::1]:0", "--drain-seconds=2.5",
             "--hash-folders=/a,/b", "--max_context", "100", "--no-prefix-cache"});
  ASSERT_TRUE(line.ok()) << line.status();
  const engine::LoadOptions& load = line->options.load;
  EXPECT_EQ(load.model_folder, "/models/tiny/");
  EXPECT_EQ(load.model_name, "tiny");
  EXPECT_EQ(load.max_tokens_in_cache, 4096);
  EXPECT_EQ(Parse({"--model=x", "--cache-memory-share=0.6"})->options.load.cache_memory_share, 0.6);
  EXPECT_TRUE(load.allow_untrained_hash);
  EXPECT_EQ(load.retrieval.budget.ratio, 0.05);
  EXPECT_EQ(load.dtype, engine::DTypeChoice::kFp32);
  EXPECT_EQ(*load.random_weights_seed, 7u);
  EXPECT_EQ(load.hash_folders, (std::vector<std::string>{"/a", "/b"}));
  EXPECT_EQ(load.max_context_tokens, 100);
  EXPECT_FALSE(load.scheduler.prefix_cache);
  EXPECT_TRUE(Parse({"--model=x"})->options.load.scheduler.prefix_cache);
  EXPECT_EQ(line->options.server.listen.host, "::1");
  EXPECT_FALSE(line->options.server.reflection);
  EXPECT_EQ(line->options.server.model_name, "tiny");
  EXPECT_EQ(line->options.drain, absl::Seconds(2.5));
  EXPECT_EQ(Parse({"--model=x", "--histogram-buckets=batch_size=1,2"})->options.server.histogram_buckets,
            (HistogramBuckets{{"spotlight_batch_size", {1, 2}}}));
  EXPECT_EQ(Parse({"--model=x"})->options.load.kv_cache_dtype, engine::KvCacheDType::kAuto);
  EXPECT_EQ(Parse({"--model=x", "--kv-cache-dtype=fp8"})->options.load.kv_cache_dtype, engine::KvCacheDType::kFp8);
  EXPECT_EQ(load.retrieval.sparse_min_context, engine::kSparseMinContextByDevice);
  EXPECT_EQ(Parse({"--model=x", "--sparse-min-context=0"})->options.load.retrieval.sparse_min_context, 0);
  EXPECT_EQ(Parse({"--model=x", "--sparse-min-context=300"})->options.load.retrieval.sparse_min_context, 300);
  EXPECT_FALSE(load.max_step_seconds.has_value()) << "by device";
  EXPECT_EQ(Parse({"--model=x", "--max-step-seconds=0"})->options.load.max_step_seconds, 0.0);
  EXPECT_EQ(Parse({"--model=x", "--max-step-seconds=2.5"})->options.load.max_step_seconds, 2.5);
  EXPECT_EQ(line->options.server.unread_patience, absl::Minutes(5));
  EXPECT_FALSE(Parse({"--model=x"})->options.server.share_prefix_cache);
  EXPECT_TRUE(Parse({"--model=x", "--share-prefix-cache"})->options.server.share_prefix_cache);
  const auto pinging = Parse({"--model=x", "--keepalive-seconds=5", "--keepalive-timeout-seconds=1.5"});
  EXPECT_EQ(pinging->options.server.keepalive_time, absl::Seconds(5));
  EXPECT_EQ(pinging->options.server.keepalive_timeout, absl::Seconds(1.5));
  EXPECT_EQ(Parse({"--model=x", "--request-read-seconds=5"})->options.server.request_patience, absl::Seconds(5));
  EXPECT_EQ(Parse({"--model=x", "--max-unread-seconds=0"})->options.server.unread_patience, absl::ZeroDuration());
}

TEST(CommandLineTest, TheGuardrailIsOffUntilItHasAFloor) {
  const auto plain = Parse({"--model=x"});
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->options.load.quality.floor, 0);
  EXPECT_GT(plain->options.load.quality.sample_every, 0);
  const auto guarded = Parse({"--model=x", "--quality-sample-every=8", "--quality-floor=0.9", "--quality-low-samples=2",
                              "--quality-fallback=budget"});
  ASSERT_TRUE(guarded.ok()) << guarded.status();
  const engine::QualityOptions& quality = guarded->options.load.quality;
  EXPECT_EQ(quality.sample_every, 8);
  EXPECT_EQ(quality.floor, 0.9);
  EXPECT_EQ(quality.low_samples, 2);
  EXPECT_EQ(quality.fallback, engine::QualityFallback::kBudget);
}

TEST(CommandLineTest, ErrorsNameTheFlagAndItsBound) {
  EXPECT_EQ(Error({"--modle=x"}), "--modle: no such flag; see --help");
  EXPECT_EQ(Error({"x"}), "\"x\" is not a flag; see --help");
  EXPECT_EQ(Error({"--flagfile=x"}), "--flagfile: no such flag; see --help");
  EXPECT_EQ(Error({}), "--model: names the checkpoint folder to serve and must be given");
  EXPECT_EQ(Error({"--model"}), "--model: needs a value, DIR");
  EXPECT_EQ(Error({"--model=x", "--threads=many"}), "--threads: cannot take \"many\" as N");
  EXPECT_EQ(Error({"--model=x", "--threads=-1"}), "--threads: must be at least 0, got -1");
  EXPECT_EQ(Error({"--model=x", "--budget=nan"}), "--budget: must be above 0 and at most 1, got nan");
  EXPECT_EQ(Error({"--model=x", "--cache-memory-share=1.5"}), "--cache-memory-share: must be in [0, 1], got 1.5");
  EXPECT_EQ(Error({"--model=x", "--cache-memory-share=0.5", "--max-tokens-in-cache=4096"}),
            "--cache-memory-share: sizes the cache as --max-tokens-in-cache does: give one of them");
  EXPECT_EQ(Error({"--model=x", "--dtype=fp8"}), "--dtype: must be auto, bf16 or fp32, got \"fp8\"");
  EXPECT_EQ(Error({"--model=x", "--quantization=int4"}), "--quantization: must be none or fp8, got \"int4\"");
  EXPECT_EQ(Error({"--model=x", "--kv-cache-dtype=int8"}), "--kv-cache-dtype: must be auto or fp8, got \"int8\"");
  EXPECT_EQ(Error({"--model=x", "--device=tpu"}), "--device: must be auto, cpu or cuda:N, got \"tpu\"");
  EXPECT_EQ(Error({"--model=x", "--http=9090"}), "--http: must be HOST:PORT, got \"9090\"");
  EXPECT_EQ(Error({"--model=x", "--sparse-min-context=-1"}),
            "--sparse-min-context: must be auto or at least 0, got \"-1\"");
  EXPECT_EQ(Error({"--model=x", "--sparse-min-context=4k"}),
            "--sparse-min-context: must be auto or at least 0, got \"4k\"");
  EXPECT_EQ(Error({"--model=x", "--quality-floor=1.5"}), "--quality-floor: must be in [0, 1], got 1.5");
  EXPECT_EQ(Error({"--model=x", "--quality-floor=0.5", "--quality-sample-every=0"}),
            "--quality-floor: needs samples: --quality-sample-every is 0");
  EXPECT_EQ(Error({"--model=x", "--quality-sample-every=-1"}), "--quality-sample-every: must be at least 0, got -1");
  EXPECT_EQ(Error({"--model=x", "--quality-low-samples=0"}), "--quality-low-samples: must be at least 1, got 0");
  EXPECT_EQ(Error({"--model=x", "--quality-fallback=stop"}),
            "--quality-fallback: must be dense or budget, got \"stop\"");
  EXPECT_EQ(Error({"--model=x", "--max-running=600", "--max-step-tokens=512"}),
            "--max-step-tokens: must be at least 600, got 512");
  EXPECT_EQ(Error({"--model=x", "--max-token-gap-ms=-1"}), "--max-token-gap-ms: must be in [0, 1000000], got -1");
  EXPECT_EQ(Error({"--model=x", "--max-step-seconds=nan"}),
            "--max-step-seconds: must be auto or in [0, 1000000], got \"nan\"");
  EXPECT_EQ(Error({"--model=x", "--histogram-buckets=step_seconds=2,1"}),
            "--histogram-buckets: step_seconds: bounds must increase, got 1 after 2");
}

TEST(CommandLineTest, OtherAddressesThanLoopbackNeedAllowInsecure) {
  EXPECT_TRUE(absl::StrContains(Error({"--model=x", "--listen=0.0.0.0:50051"}), "--allow-insecure"));
  EXPECT_TRUE(Parse({"--model=x", "--listen=0.0.0.0:50051", "--allow-insecure"}).ok());
}

TEST(CommandLineTest, TlsNeedsNoPermissionToLeaveLoopback) {
  const auto line = Parse({"--model=x", "--listen=0.0.0.0:50051", "--tls-cert=C", "--tls-key=K", "--tls-client-ca=A",
                           "--http-tls", "--credentials-reload-seconds=0.5"});
  ASSERT_TRUE(line.ok()) << line.status();
  const SecurityOptions& security = line->options.server.security;
  EXPECT_EQ(security.tls.certificate_file, "C");
  EXPECT_EQ(security.tls.key_file, "K");
  EXPECT_EQ(security.tls.client_ca_file, "A");
  EXPECT_TRUE(security.http_tls);
  EXPECT_EQ(security.reload_interval, absl::Seconds(0.5));
}

TEST(CommandLineTest, SecurityFlagsThatMakeNoSenseAreErrors) {
  EXPECT_EQ(Error({"--model=x", "--tls-cert=C"}), "--tls-cert: needs --tls-key");
  EXPECT_EQ(Error({"--model=x", "--tls-key=K"}), "--tls-key: needs --tls-cert");
  EXPECT_EQ(Error({"--model=x", "--tls-client-ca=A"}), "--tls-client-ca: needs --tls-cert and --tls-key");
  EXPECT_EQ(Error({"--model=x", "--http-tls"}), "--http-tls: needs --tls-cert and --tls-key");
  EXPECT_EQ(Error({"--model=x", "--reflection=maybe"}), "--reflection: must be auto, on or off, got \"maybe\"");
  EXPECT_EQ(Error({"--model=x", "--credentials-reload-seconds=0"}),
            "--credentials-reload-seconds: must be 0.1 to 2e+06, got 0");
  EXPECT_EQ(Error({"--model=x", "--max-connection-age-seconds=-1"}),
            "--max-connection-age-seconds: must be 0 to 2e+06, got -1");
  EXPECT_EQ(Error({"--model=x", "--keepalive-seconds=0"}), "--keepalive-seconds: must be 0.1 to 2e+06, got 0");
  EXPECT_EQ(Error({"--model=x", "--keepalive-timeout-seconds=inf"}),
            "--keepalive-timeout-seconds: must be 0.1 to 2e+06, got inf");
  EXPECT_EQ(Error({"--model=x", "--max-concurrent-per-caller=-1"}),
            "--max-concurrent-per-caller: must be at least 0, got -1");
  EXPECT_EQ(Error({"--model=x", "--trace-parents-per-second=-1"}),
            "--trace-parents-per-second: must be in [0, 1000000], got -1");
  EXPECT_EQ(Error({"--model=x", "--request-read-seconds=-1"}), "--request-read-seconds: must be 0 to 2e+06, got -1");
  EXPECT_EQ(Error({"--model=x", "--max-unread-seconds=nan"}), "--max-unread-seconds: must be 0 to 2e+06, got nan");
  EXPECT_EQ(Error({"--model=x", "--connection-grace-seconds=5"}),
            "--connection-grace-seconds: needs --max-connection-age-seconds");
}

TEST(CommandLineTest, ReflectionIsOnUntilThereAreTokens) {
  EXPECT_TRUE(Parse({"--model=x"})->options.server.reflection);
  EXPECT_FALSE(Parse({"--model=x", "--token-file=T"})->options.server.reflection);
  EXPECT_TRUE(Parse({"--model=x", "--token-file=T", "--reflection=on"})->options.server.reflection);
  EXPECT_FALSE(Parse({"--model=x"})->options.server.channelz);
}

TEST(ProgramTest, MissingCredentialsExitWith1) {
  EXPECT_EQ(RunWith({"--model=x", "--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--token-file=/nowhere"}, NeverLoaded),
            1);
}

TEST(ProgramTest, BadCommandLineExitsWith2) {
  EXPECT_EQ(RunWith({"--modle=x"}, NeverLoaded), 2);
}

TEST(ProgramTest, HelpAndVersionExitWith0) {
  EXPECT_EQ(RunWith({"--help"}, NeverLoaded), 0);
  EXPECT_EQ(RunWith({"--version"}, NeverLoaded), 0);
}

TEST(ProgramTest, FailedLoadExitsWith1) {
  EXPECT_EQ(RunWith({"--model=x", "--listen=127.0.0.1:0", "--http=127.0.0.1:0"},
                    [](const engine::LoadOptions&, engine::StatsObserver*) {
                      return absl::NotFoundError("x/config.json: no such file");
                    }),
            1);
}

TEST(ProgramTest, AddressThatCannotBeBoundExitsWith1) {
  EXPECT_EQ(RunWith({"--model=x", "--listen=203.0.113.1:50051", "--allow-insecure"}, NeverLoaded), 1);
}

// Asks the process to stop once the server is up.
class StoppingEngine : public engine::Engine {
 public:
  absl::Status Submit(engine::GenerateRequest request, std::shared_ptr<engine::ResponseSink> sink) override {
    return fake_.Submit(std::move(request), std::move(sink));
  }
  absl::Status Cancel(const std::string& id, engine::CancelReason reason, const engine::CancelScope& scope) override {
    return fake_.Cancel(id, reason, scope);
  }
  void Drain(absl::Duration grace) override { fake_.Drain(grace); }
  absl::Status CheckTextSize(const std::string& text) const override { return fake_.CheckTextSize(text); }
  absl::StatusOr<std::vector<int32_t>> Tokenize(const engine::Prompt& prompt) const override {
    return fake_.Tokenize(prompt);
  }
  absl::StatusOr<std::string> Detokenize(const std::vector<int32_t>& ids) const override {
    return fake_.Detokenize(ids);
  }
  engine::EngineLoad Load() const override { return fake_.Load(); }
  const engine::ModelInfo& model() const override { return fake_.model(); }
  const engine::EngineOptions& options() const override {
    // Asked for once the model is loaded: the signal comes with the server up.
    if (!signalled_.exchange(true)) kill(getpid(), SIGTERM);
    return fake_.options();
  }

 private:
  mutable std::atomic<bool> signalled_{false};
  spotlight::testing::FakeEngine fake_;
};

int ServeAndStop(std::unique_ptr<engine::Engine> engine, const char* drain) {
  return RunWith({"--model=x", "--listen=127.0.0.1:0", "--http=127.0.0.1:0", drain},
                 [&engine](const engine::LoadOptions&, engine::StatsObserver*) {
                   engine::LoadedEngine loaded;
                   loaded.engine = std::move(engine);
                   return loaded;
                 });
}

TEST(ProgramTest, SignalDrainsAndExitsWith0) {
  class Drained final : public StoppingEngine {
   public:
    explicit Drained(absl::Duration* grace) : grace_(grace) {}
    void Drain(absl::Duration grace) override { *grace_ = grace; }

   private:
    absl::Duration* grace_;
  };
  absl::Duration grace;
  EXPECT_EQ(ServeAndStop(std::make_unique<Drained>(&grace), "--drain-seconds=4"), 0);
  EXPECT_EQ(grace, absl::Seconds(4));
}

TEST(ProgramTest, AnEngineThatHangsInAStepIsLeftBehindWithAnErrorAndExitStatus1) {
  class Hanging final : public StoppingEngine {
   public:
    ~Hanging() override { std::this_thread::sleep_for(std::chrono::minutes(2)); }
  };
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(std::_Exit(ServeAndStop(std::make_unique<Hanging>(), "--drain-seconds=0")), ::testing::ExitedWithCode(1),
              "ended without the engine: a step of the model has not ended");
}

TEST(RequestLogTest, LineIsOneJsonObjectWithoutText) {
  CallRecord record;
  record.method = "GenerateStream";
  record.request_id = "a\"b\n\xff";
  record.seconds = 0.5;
  engine::Finish finish;
  finish.reason = engine::FinishReason::kLength;
  finish.usage = {5, 2, 0};
  record.finish = finish;
  const std::string line = RequestLogLine(record, 1.5);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_TRUE(absl::StartsWith(line, R"({"time":1.5,"method":"GenerateStream","request_id":"a\"b\n)")) << line;
  EXPECT_TRUE(absl::StrContains(line, R"("code":"OK","seconds":0.5,"finish_reason":"length","prompt_tokens":5)"))
      << line;
}

TEST(RequestLogTest, LineTellsWhatRetrievalWasWorthOnceItWasSampled) {
  CallRecord record;
  record.finish = engine::Finish();
  EXPECT_FALSE(absl::StrContains(RequestLogLine(record, 1.5), "attention_mass"));
  record.finish->retrieval.quality = {3, 0.5, 0.25, 0.75, 0.125, 0.625};
  record.finish->retrieval.fallback = {1, 17, true, 0};
  const std::string line = RequestLogLine(record, 1.5);
  EXPECT_TRUE(absl::StrContains(line, R"("quality_samples":3,"recall":0.5,"attention_mass":0.75,)"
                                      R"("min_attention_mass":0.625,"fallback":"dense","fallback_after_tokens":17})"))
      << line;
}

TEST(RequestLogTest, LongMessagesAreCut) {
  CallRecord record;
  record.status = absl::InvalidArgumentError(std::string(100'000, 'x'));
  EXPECT_LT(RequestLogLine(record, 1.5).size(), 1200u);
}

}  // namespace
}  // namespace spotlight::server
