// nwc report: what a file holds, as one HTML page that needs nothing else.

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>
#include <nlohmann/json.hpp>

#include "host-tools/cli.h"
#include "host-tools/info_json.h"
#include "host-tools/output_name.h"
#include "host-tools/report_page.h"
#include "trainer/data/atomic_file.h"
#include "trainer/data/fs_path.h"
#include "trainer/inspect/info.h"
#include "trainer/inspect/tensor_error.h"

namespace nwc::cli {
namespace {

struct ReportCommand {
  std::string path, output = "report.html", reference, log;
  DeviceOptions device;
};

constexpr uint64_t kMostLogBytes = uint64_t{64} << 20;

/// Lines of a training log. errors: kCorrupt (a line that is no JSON object), those of reading
Result<nlohmann::json> read_log(const std::string& path) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<Reader> reader, open_file_reader(path));
  if (reader->size() > kMostLogBytes)
    return limit_error(
        fmt::format("{}: {} of log, {} at most", path, format_bytes(reader->size()), format_bytes(kMostLogBytes)));
  std::string text(static_cast<size_t>(reader->size()), '\0');
  NWC_TRY(reader->read(0, {reinterpret_cast<uint8_t*>(text.data()), text.size()}));
  nlohmann::json lines = nlohmann::json::array();
  size_t number = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    ++number;
    if (end > at) {
      nlohmann::json line = nlohmann::json::parse(text.begin() + static_cast<ptrdiff_t>(at),
                                                  text.begin() + static_cast<ptrdiff_t>(end), nullptr, false);
      if (!line.is_object())
        return corrupt(fmt::format("{}: line {} is no JSON object, as nwc train --log writes them", path, number));
      lines.push_back(std::move(line));
    }
    at = end + 1;
  }
  return lines;
}

/// Adds "relative_error" to every coded tensor that the reference has in the same shape. Returns how many.
Result<size_t> add_errors(const ReportCommand& command, const NwcFile& file, Decoder& decoder, const Context& context,
                          nlohmann::json* tensors) {
  NWC_ASSIGN_OR_RETURN(const ModelInput reference, open_model_input(command.reference, context));
  if (reference.source == nullptr)
    return invalid_argument(command.reference + ": is compressed itself; --reference takes the uncompressed model");
  ProgressLine progress(context, "comparing");
  NWC_ASSIGN_OR_RETURN(const std::vector<std::optional<double>> errors,
                       tensor_errors(file, decoder, *reference.source, progress.callback()));
  size_t measured = 0;
  for (size_t t = 0; t < errors.size(); ++t) {
    if (!errors[t]) continue;
    (*tensors)[t]["relative_error"] = *errors[t];
    ++measured;
  }
  if (measured == 0) return invalid_argument(command.reference + ": has no tensor of " + command.path);
  return measured;
}

/// JSON that stands inside <script>: no text of the file can end it.
std::string inside_html(const nlohmann::json& data) {
  std::string out;
  for (const char c : data.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)) {
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  }
  return out;
}

Status report(const ReportCommand& command, Context& context) {
  const Output output{command.output};
  std::vector<std::string> inputs = {command.path};
  if (!command.reference.empty()) inputs.push_back(command.reference);
  if (!command.log.empty()) inputs.push_back(command.log);
  NWC_TRY(check_before_work({&output, 1}, inputs));
  NWC_TRY(check_output_name(command.output, {".html", ".htm"}, "name it .html"));
  nlohmann::json data;
  if (!command.log.empty()) {
    NWC_ASSIGN_OR_RETURN(data["log"], read_log(command.log));
    data["log_name"] = fs_path(command.log).filename().string();
  }
  NWC_ASSIGN_OR_RETURN(ModelInput input, open_model_input(command.path, context));
  if (!input.compressed)
    return invalid_argument(command.path + ": is no .nwc file; nwc compress makes one, and nwc info describes this");
  Result<std::unique_ptr<NwcFile>> opened = NwcFile::open(std::move(input.reader));
  if (!opened.ok()) return opened.status().with_context(command.path);
  const NwcFile& file = *opened.value();
  NWC_ASSIGN_OR_RETURN(const DecoderHandle decoder, make_decoder(file, command.device, context));
  Result<ModelInfo> inspected = inspect_model(file, decoder.decoder.get());
  if (!inspected.ok()) return inspected.status().with_context(command.path);
  std::optional<Prediction> prediction;
  if (inspected->coded_weights != 0) {
    NWC_ASSIGN_OR_RETURN(prediction, predict(file, decoder, inspected->coded_weights));
  }
  data["info"] = info_json(command.path, file, *inspected, prediction, true);
  data["info"].erase("chat");  // long, and nwc info has it
  size_t measured = 0;
  if (!command.reference.empty()) {
    NWC_ASSIGN_OR_RETURN(measured, add_errors(command, file, *decoder.decoder, context, &data["info"]["tensors"]));
  }
  data["name"] = fs_path(command.path).filename().string();
  data["version"] = NWC_VERSION;
  data["date"] = fmt::format("{:%Y-%m-%d}", fmt::localtime(std::time(nullptr)));
  std::string page = kReportPage;
  constexpr std::string_view kPlace = "%DATA%";
  page.replace(page.find(kPlace), kPlace.size(), inside_html(data));
  NWC_ASSIGN_OR_RETURN(AtomicFile written, AtomicFile::create(command.output));
  NWC_TRY(written.write({reinterpret_cast<const uint8_t*>(page.data()), page.size()}));
  NWC_TRY(written.commit());
  if (context.json)
    context.print_json({{"output", command.output}, {"bytes", page.size()}, {"compared_tensors", measured}});
  else
    fmt::print("wrote {}: {}; any browser shows it\n", command.output, format_bytes(page.size()));
  return {};
}

}  // namespace

void add_report(CommandLine& line, Context& context) {
  auto command = std::make_shared<ReportCommand>();
  Command sub = line.add_command("report", "Write what a file holds, and how well, as one HTML page");
  sub.add_option("file", command->path, ".nwc file").required();
  sub.add_option("-o,--output", command->output, "The page (.html)").show_default();
  sub.add_option("--reference", command->reference,
                 "The uncompressed model: adds the error of every tensor against its bits");
  sub.add_option("--log", command->log, "Log of nwc train --log: adds the curves of the codec's training")
      .existing_file();
  add_device_options(sub, command->device);
  add_common_options(sub, context);
  sub.on_run([command, &context] { run_command(context, "report", [&] { return report(*command, context); }); });
}

}  // namespace nwc::cli
