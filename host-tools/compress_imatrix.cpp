// nwc compress --imatrix: what llama.cpp has measured of a model's inputs.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "host-tools/compress_command.h"

namespace nwc::cli {

Status read_imatrix(const ModelSource& source, const Context& context, CompressCommand* command) {
  NWC_ASSIGN_OR_RETURN(std::unique_ptr<Reader> reader, open_file_reader(command->imatrix));
  Result<Imatrix> imatrix = Imatrix::open(std::move(reader));
  if (!imatrix.ok()) return imatrix.status().with_context(command->imatrix);
  Result<ColumnPowers> powers = ColumnPowers::match(std::move(*imatrix), source);
  if (!powers.ok()) return powers.status().with_context(command->imatrix);
  command->powers = std::make_shared<const ColumnPowers>(std::move(*powers));

  const size_t covered = command->powers->covered(), without = command->powers->uncovered().size();
  // Embedding and head are not in most files.
  context.logger().log(covered < without ? LogLevel::kWarning : LogLevel::kInfo, imatrix_line(*command));
  return {};
}

std::string imatrix_line(const CompressCommand& command) {
  constexpr size_t kNamed = 3;
  const ColumnPowers& powers = *command.powers;
  const std::vector<std::string>& without = powers.uncovered();
  const std::vector<std::string> named(without.begin(),
                                       without.begin() + static_cast<ptrdiff_t>(std::min(kNamed, without.size())));
  std::string line = fmt::format("{}: {} of {} matrices covered", command.imatrix, powers.covered(),
                                 powers.covered() + without.size());
  if (!without.empty()) line += fmt::format("; without: {}", fmt::join(named, ", "));
  if (without.size() > kNamed) line += fmt::format(" and {} more", without.size() - kNamed);
  if (powers.unused_entries() != 0) line += fmt::format("; {} entries are of other matrices", powers.unused_entries());
  return line;
}

nlohmann::json imatrix_json(const CompressCommand& command) {
  const ColumnPowers& powers = *command.powers;
  return {{"file", command.imatrix},
          {"hash", powers.imatrix().hash()},
          {"texts", powers.imatrix().datasets()},
          {"chunks", powers.imatrix().chunks()},
          {"covered", powers.covered()},
          {"uncovered", powers.uncovered()},
          {"unused_entries", powers.unused_entries()}};
}

}  // namespace nwc::cli
