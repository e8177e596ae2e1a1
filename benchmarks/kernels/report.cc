#include "benchmarks/kernels/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

namespace spotlight::benchmarks {
namespace {

std::string Times(int32_t batch, int32_t tokens) {
  std::string text = tokens % 1024 != 0        ? std::to_string(tokens)
                     : tokens % (1 << 20) == 0 ? std::to_string(tokens >> 20) + "M"
                                               : std::to_string(tokens >> 10) + "K";
  return std::to_string(batch) + " x " + text;
}

std::string Number(double value, const char* format) {
  if (value == 0 || !std::isfinite(value)) return "-";
  char text[32];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

double Ratio(double a, double b) {
  return b > 0 ? a / b : 0;
}

// Three significant decimals; null for what was not measured.
nlohmann::json Figure(double value) {
  if (value == 0) return nullptr;
  return std::round(value * 1e3) / 1e3;
}

}  // namespace

void PrintHeader(const Report& report) {
  std::printf("%s, driver %s, CUDA %s, torch %s, cuDNN %s, commit %s\n", report.device.c_str(), report.driver.c_str(),
              report.cuda.c_str(), report.torch.c_str(), report.cudnn.c_str(), report.commit.c_str());
  std::printf("Medians of %d, cold L2. us: launched directly / as a CUDA graph's replay.\n", report.num_samples);
  std::printf("An empty launch %.1f / %.1f us, two %.1f / %.1f us; a plain read of 4 GB %.0f GB/s.\n\n",
              report.empty_launch.us, report.empty_launch.graph_us, report.two_empty_launches.us,
              report.two_empty_launches.graph_us, report.read_gb_per_s);
}

void PrintTable(const std::string& title, const std::vector<Row>& rows) {
  if (rows.empty()) return;
  std::printf("%s\n%-28s %-13s %-9s %8s %8s %7s %7s %8s %8s %8s %8s %7s %7s %7s\n", title.c_str(), "op", "shape",
              "tokens", "us", "graph", "GB/s", "%floor", "floor us", "read us", "cuDNN us", "graph", "ratio", "graph",
              "public");
  for (const Row& row : rows) {
    const std::string op = row.op + (row.prefilter ? " +prefilter" : "") + (row.clustered ? " *" : "");
    std::printf("%-28s %-13s %-9s %8.1f %8.1f %7.0f %7s %8s %8s %8s %8s %7s %7s %7s\n", op.c_str(), row.shape.c_str(),
                Times(row.batch, row.context).c_str(), row.time.us, row.time.graph_us, 1e-3 * row.bytes / row.time.us,
                Number(100 * row.floor_us / row.time.us, "%.0f%%").c_str(), Number(row.floor_us, "%.1f").c_str(),
                Number(row.read.us, "%.1f").c_str(), Number(row.anchor.us, "%.1f").c_str(),
                Number(row.anchor.graph_us, "%.1f").c_str(), Number(Ratio(row.anchor.us, row.time.us), "%.2fx").c_str(),
                Number(Ratio(row.anchor.graph_us, row.time.graph_us), "%.2fx").c_str(),
                Number(Ratio(row.peer_us, row.time.us), "%.2fx").c_str());
  }
  std::printf("\n");
}

void PrintCrossover(const std::vector<Row>& rows) {
  // (shape, batch) -> context -> us without and with the prefilter.
  std::map<std::pair<std::string, int32_t>, std::map<int32_t, std::pair<double, double>>> times;
  for (const Row& row : rows) {
    if (row.op != "sparse_attention" || row.clustered) continue;
    auto& [plain, prefiltered] = times[{row.shape, row.batch}][row.context];
    (row.prefilter ? prefiltered : plain) = row.time.us;
  }
  for (const auto& [key, contexts] : times) {
    if (contexts.size() < 2) continue;
    int32_t crossover = 0;  // the prefilter wins here and at every longer context
    for (auto context = contexts.rbegin(); context != contexts.rend(); ++context) {
      if (context->second.second >= context->second.first) break;
      crossover = context->first;
    }
    std::printf(
        "%s, batch %d: the prefilter pays %s\n", key.first.c_str(), key.second,
        crossover == 0 ? "at none of these contexts" : ("from " + std::to_string(crossover) + " tokens on").c_str());
  }
  std::printf("\n");
}

void PrintTargets(const std::vector<Row>& rows) {
  // Speed-ups over cuDNN's full attention, launched directly, and with or without the prefilter unless one is named.
  struct Target {
    const char* op;
    int32_t batch, context;
    bool without_prefilter;
    double ratio;
  };
  constexpr Target kTargets[] = {
      {"sparse_attention", 1, 131072, false, 5},     {"sparse_attention", 1, 524288, false, 9},
      {"sparse_attention", 1, 1048576, false, 12.5}, {"sparse_attention", 1, 1048576, true, 11},
      {"sparse_attention", 1, 2097152, false, 16},   {"sparse_attention", 8, 131072, false, 12.5},
      {"dense_decode", 1, 32768, false, 0.9},        {"dense_decode", 1, 131072, false, 0.9},
      {"dense_decode", 1, 1048576, false, 0.9},      {"dense_decode", 8, 131072, false, 0.9},
  };
  bool any = false;
  for (const Target& target : kTargets) {
    Timing best;
    double skeleton = 0;
    for (const Row& row : rows) {
      if (row.batch != target.batch || row.context != target.context || row.clustered || row.shape != "qwen2.5-7b") {
        continue;
      }
      if (row.op == kSkeletonAttention) skeleton = Ratio(row.anchor.us, row.time.us);
      if (row.op != target.op || (row.prefilter && target.without_prefilter)) continue;
      best.us = std::max(best.us, Ratio(row.anchor.us, row.time.us));
      best.graph_us = std::max(best.graph_us, Ratio(row.anchor.graph_us, row.time.graph_us));
    }
    if (best.us == 0) continue;
    if (!any) std::printf("Targets, times faster than cuDNN's full attention:\n");
    any = true;
    const bool bounded = skeleton > 0 && target.op == std::string("sparse_attention");
    std::printf("%-18s %-9s %-18s at least %5.1fx: %6.2fx, as graphs %6.2fx%s %s\n", target.op,
                Times(target.batch, target.context).c_str(), target.without_prefilter ? "without prefilter" : "",
                target.ratio, best.us, best.graph_us,
                bounded ? (", its reads alone " + Number(skeleton, "%.2fx")).c_str() : "",
                best.us >= target.ratio ? "" : "MISSED");
  }
  double least = 0;
  for (const Row& row : rows) {
    if (row.peer_us == 0) continue;
    double best_us = row.time.us;
    for (const Row& other : rows) {
      if (other.peer_us == row.peer_us && other.context == row.context) best_us = std::min(best_us, other.time.us);
    }
    const double ratio = row.peer_us / best_us;
    least = least == 0 ? ratio : std::min(least, ratio);
  }
  if (least > 0) {
    std::printf("%-18s %-28s at least %5.1fx: %6.2fx %s\n", "sparse_attention", "than the public kernels", 5.0, least,
                least >= 5 ? "" : "MISSED");
  }
  for (const Row& row : rows) {
    if (row.layer_us == 0) continue;
    const double share = 100 * row.time.us / row.layer_us;
    std::printf("%-18s %-9s %-18s under %8.0f%%: %6.2f%% of the layer's other work %s\n", "prefill encode",
                Times(row.batch, row.context).c_str(), "", 2.0, share, share < 2 ? "" : "MISSED");
  }
}

std::string ToJson(const Report& report) {
  nlohmann::ordered_json json;
  json["device"] = report.device;
  json["versions"] = {
      {"driver", report.driver}, {"cuda", report.cuda}, {"torch", report.torch}, {"cudnn", report.cudnn}};
  json["commit"] = report.commit;
  json["peer_commit"] =
      report.peer_commit.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(report.peer_commit);
  json["num_samples"] = report.num_samples;
  json["read_gb_per_s"] = Figure(report.read_gb_per_s);
  json["empty_launch_us"] = Figure(report.empty_launch.us);
  json["empty_launch_graph_us"] = Figure(report.empty_launch.graph_us);
  json["two_empty_launches_us"] = Figure(report.two_empty_launches.us);
  json["two_empty_launches_graph_us"] = Figure(report.two_empty_launches.graph_us);
  json["rows"] = nlohmann::ordered_json::array();
  for (const Row& row : report.rows) {
    json["rows"].push_back({{"op", row.op},
                            {"shape", row.shape},
                            {"batch", row.batch},
                            {"context", row.context},
                            {"prefilter", row.prefilter},
                            {"clustered", row.clustered},
                            {"us", Figure(row.time.us)},
                            {"graph_us", Figure(row.time.graph_us)},
                            {"anchor_us", Figure(row.anchor.us)},
                            {"anchor_graph_us", Figure(row.anchor.graph_us)},
                            {"layer_us", Figure(row.layer_us)},
                            {"public_us", Figure(row.peer_us)},
                            {"floor_us", Figure(row.floor_us)},
                            {"read_us", Figure(row.read.us)},
                            {"bytes", row.bytes},
                            {"gb_per_s", Figure(1e-3 * row.bytes / row.time.us)}});
  }
  json["cpu_scoring"] = nlohmann::ordered_json::array();
  for (const CpuScoringRow& row : report.cpu_scoring) {
    json["cpu_scoring"].push_back({{"level", row.level},
                                   {"hash_words", row.hash_words},
                                   {"threads", row.num_threads},
                                   {"score_gb_per_s", Figure(row.score_gb_per_s)},
                                   {"read_gb_per_s", Figure(row.read_gb_per_s)},
                                   {"ratio", Figure(row.ratio())}});
  }
  return json.dump(1) + "\n";
}

}  // namespace spotlight::benchmarks
