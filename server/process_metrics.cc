#include "server/process_metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace spotlight::server {
namespace {

// Fields of /proc/self/stat after the command name, which may hold blanks; see proc(5).
struct ProcessStat {
  double cpu_seconds = 0;
  double start_seconds_after_boot = 0;
  double virtual_bytes = 0;
  double resident_bytes = 0;
};

bool ReadStat(ProcessStat* stat) {
  std::ifstream file("/proc/self/stat");
  std::string line;
  if (!std::getline(file, line)) return false;
  const size_t end_of_name = line.rfind(')');
  if (end_of_name == std::string::npos) return false;
  std::istringstream fields(line.substr(end_of_name + 1));
  std::vector<std::string> values;
  for (std::string value; fields >> value;) values.push_back(value);
  constexpr int kFirstField = 3;  // "state", in the numbering of proc(5)
  if (values.size() <= 24 - kFirstField) return false;
  const auto field = [&values](int number) { return std::strtod(values[number - kFirstField].c_str(), nullptr); };
  const auto ticks_per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  stat->cpu_seconds = (field(14) + field(15)) / ticks_per_second;
  stat->start_seconds_after_boot = field(22) / ticks_per_second;
  stat->virtual_bytes = field(23);
  stat->resident_bytes = field(24) * static_cast<double>(sysconf(_SC_PAGESIZE));
  return true;
}

// Unix time of the boot; 0 when it cannot be read.
double BootTime() {
  std::ifstream file("/proc/stat");
  for (std::string word; file >> word;) {
    if (word != "btime") continue;
    double seconds = 0;
    file >> seconds;
    return seconds;
  }
  return 0;
}

int CountOpenFiles() {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return -1;
  int count = -3;  // ".", ".." and the folder's own descriptor
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

prometheus::MetricFamily Family(const char* name, const char* help, prometheus::MetricType type, double value) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  family.metric.resize(1);
  if (type == prometheus::MetricType::Counter) {
    family.metric[0].counter.value = value;
  } else {
    family.metric[0].gauge.value = value;
  }
  return family;
}

}  // namespace

std::vector<prometheus::MetricFamily> ProcessMetrics::Collect() const {
  constexpr auto kCounter = prometheus::MetricType::Counter;
  constexpr auto kGauge = prometheus::MetricType::Gauge;
  std::vector<prometheus::MetricFamily> families;
  ProcessStat stat;
  if (ReadStat(&stat)) {
    families.push_back(Family("process_cpu_seconds_total", "User and system time.", kCounter, stat.cpu_seconds));
    families.push_back(Family("process_virtual_memory_bytes", "Virtual memory.", kGauge, stat.virtual_bytes));
    families.push_back(Family("process_resident_memory_bytes", "Resident memory.", kGauge, stat.resident_bytes));
    if (const double boot = BootTime(); boot > 0) {
      families.push_back(Family("process_start_time_seconds", "Start of the process, Unix time.", kGauge,
                                boot + stat.start_seconds_after_boot));
    }
  }
  if (const int count = CountOpenFiles(); count >= 0) {
    families.push_back(Family("process_open_fds", "Open file descriptors.", kGauge, count));
  }
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    families.push_back(
        Family("process_max_fds", "Limit of open file descriptors.", kGauge, static_cast<double>(limit.rlim_cur)));
  }
  return families;
}

}  // namespace spotlight::server
