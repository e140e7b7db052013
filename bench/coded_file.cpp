#include "bench/coded_file.h"

#include <algorithm>

#include "runtime/codec/tile_walk.h"

namespace nwc::bench {
namespace {

class Nobody final : public TileConsumer {
 public:
  void group(const TileGeometry&, uint32_t, uint32_t, const ColumnGroup&, const LaneValues&, uint32_t) override {}
};

}  // namespace

CodedFile open_coded_file(const std::string& path) {
  CodedFile out;
  auto reader = open_file_reader(path);
  check(reader.status());
  auto file = NwcFile::open(std::move(reader).value());
  check(file.status());
  out.file = std::move(file).value();
  uint64_t bytes = 0;
  for (size_t i = 0; i < out.file->tensors().size(); ++i) {
    const TensorRecord& t = out.file->tensors()[i];
    if (t.storage != Storage::kCoded) continue;
    out.coded.push_back(i);
    out.largest = std::max(out.largest, t.rows() * t.cols());
    out.record.weights += t.rows() * t.cols();
    bytes += t.size;
  }
  if (out.coded.empty()) check(invalid_argument(path + ": no tensor is coded"));
  const CodecRecord& codec = *out.file->codec();
  out.tables = build_decode_tables(codec);
  out.record.preset = path.substr(path.rfind('/') + 1);
  out.record.quantizer = codec.trellis_bits != 0 ? "trellis" : "scalar";
  if (codec.context_kind == ContextKind::kRowClass) out.record.quantizer += ", row classes";
  out.record.bpw = 8.0 * static_cast<double>(bytes) / static_cast<double>(out.record.weights);
  return out;
}

void decode_symbols(const NwcFile& file, const DecodeTables& tables, size_t tensor, CpuLevel cpu, Runner& runner) {
  const TensorRecord& record = file.tensors()[tensor];
  const auto coded = file.load_coded(tensor, false);
  check(coded.status());
  TensorDecodeOptions options;
  options.cpu = cpu;
  options.check_crc = false;
  Nobody nobody;
  TileWalk walk(file, tables, record, *coded, 0, ceil_div(record.rows(), record.tile_rows), options, nobody);
  TileWorkers workers;
  check(walk.run(runner, &workers));
}

Record CodedFile::record_with(CpuLevel cpu, const Runner& runner) const {
  Record r = record;
  r.backend = cpu_level_name(cpu);
  r.device = cpu_name();
  r.threads = runner.num_workers();
  return r;
}

}  // namespace nwc::bench
