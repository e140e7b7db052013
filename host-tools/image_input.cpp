#include "host-tools/image_input.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "runtime/base/str_cat.h"
#include "runtime/graph/resize.h"
#include "trainer/data/json_checked.h"
#include "trainer/data/source_record.h"

namespace nwc::cli {
namespace {

using Json = nlohmann::json;

constexpr uint32_t kMaxSide = 1u << 15;

/// The file as it lies beside the model; empty: there is none.
Result<std::vector<uint8_t>> load_config(const EvalModel& model) {
  std::optional<SourceRecord> record;
  if (model.input.compressed) {
    NWC_ASSIGN_OR_RETURN(record, load_source_record(model.file->container()));
  } else if (model.input.source != nullptr) {
    NWC_ASSIGN_OR_RETURN(SourceFiles files, model.input.source->source_files());
    record = std::move(files.record);
  }
  const SourceFile* file = record ? record->find(kImageConfigName) : nullptr;
  return file == nullptr ? std::vector<uint8_t>() : file->bytes;
}

/// {"height": h, "width": w}, or one number for both.
Status read_size(const Json& size, uint32_t* height, uint32_t* width) {
  if (const std::optional<uint64_t> side = as_u64(size)) {
    if (*side == 0 || *side > kMaxSide) return corrupt("a size is " + std::to_string(*side));
    *height = *width = static_cast<uint32_t>(*side);
    return {};
  }
  NWC_TRY(get_field(size, "height", height));
  NWC_TRY(get_field(size, "width", width));
  if (*height == 0 || *width == 0 || *height > kMaxSide || *width > kMaxSide)
    return corrupt("a size is " + short_json(size));
  return {};
}

Status read_numbers(const Json& config, const char* key, std::vector<double>* out) {
  const Json* list = find_field(config, key);
  if (list == nullptr) return {};
  if (!list->is_array() || list->size() != out->size())
    return corrupt(std::string("\"") + key + "\" must have 3 numbers");
  for (size_t i = 0; i < out->size(); ++i) {
    if (!(*list)[i].is_number()) return corrupt(std::string("\"") + key + "\" must have 3 numbers");
    (*out)[i] = (*list)[i].get<double>();
    if (!std::isfinite((*out)[i])) return corrupt(std::string("\"") + key + "\" has a number that is not finite");
  }
  return {};
}

Status read_preparation(const Json& config, ImagePreparation* how) {
  bool rescale = true, normalize = true;
  NWC_TRY(get_field(config, "do_resize", &how->resize));
  NWC_TRY(get_field(config, "do_center_crop", &how->center_crop));
  NWC_TRY(get_field(config, "do_rescale", &rescale));
  NWC_TRY(get_field(config, "do_normalize", &normalize));
  if (const Json* size = find_field(config, "size"); size != nullptr) {
    if (size->is_object() && size->contains("shortest_edge")) {
      NWC_TRY(get_field(*size, "shortest_edge", &how->shortest_edge));
      if (how->shortest_edge == 0 || how->shortest_edge > kMaxSide) return corrupt("\"size\" is " + short_json(*size));
    } else if (how->center_crop && as_u64(*size)) {  // older files: the shortest edge
      uint32_t other = 0;
      NWC_TRY(read_size(*size, &how->shortest_edge, &other));
    } else {
      NWC_TRY(read_size(*size, &how->resize_height, &how->resize_width));
    }
  }
  if (const Json* crop = find_field(config, "crop_size"); crop != nullptr)
    NWC_TRY(read_size(*crop, &how->crop_height, &how->crop_width));
  uint32_t filter = 2;  // Pillow's numbers
  NWC_TRY(get_field(config, "resample", &filter));
  if (how->resize && filter != 2 && filter != 3)
    return unsupported("\"resample\" is " + std::to_string(filter) + ", only 2 (bilinear) and 3 (bicubic) are done");
  how->bicubic = filter == 3;
  if (const Json* factor = find_field(config, "rescale_factor"); factor != nullptr && factor->is_number())
    how->rescale = factor->get<double>();
  if (!rescale) how->rescale = 1;
  how->mean = {0.5, 0.5, 0.5};
  how->deviation = {0.5, 0.5, 0.5};
  NWC_TRY(read_numbers(config, "image_mean", &how->mean));
  NWC_TRY(read_numbers(config, "image_std", &how->deviation));
  if (!normalize) {
    how->mean = {0, 0, 0};
    how->deviation = {1, 1, 1};
  }
  for (const double d : how->deviation) {
    if (d <= 0) return corrupt("\"image_std\" has a number that is not positive");
  }
  return {};
}

uint8_t to_byte(double sum) { return static_cast<uint8_t>(std::clamp(std::floor(sum + 0.5), 0.0, 255.0)); }

/// Rows first, then columns, each rounded to 8 bits.
Picture resized(const Picture& in, uint32_t height, uint32_t width, bool bicubic) {
  const Resize kind = bicubic ? Resize::kBicubicAntialiased : Resize::kBilinearAntialiased;
  Picture across{in.height, width, std::vector<uint8_t>(size_t{in.height} * width * 3)};
  const std::vector<ResizeTaps> columns = resize_taps(kind, in.width, width);
  for (uint32_t y = 0; y < in.height; ++y) {
    for (uint32_t x = 0; x < width; ++x) {
      for (uint32_t c = 0; c < 3; ++c) {
        double sum = 0;
        for (size_t i = 0; i < columns[x].at.size(); ++i)
          sum += columns[x].weights[i] * in.rgb[(size_t{y} * in.width + columns[x].at[i]) * 3 + c];
        across.rgb[(size_t{y} * width + x) * 3 + c] = to_byte(sum);
      }
    }
  }
  Picture out{height, width, std::vector<uint8_t>(size_t{height} * width * 3)};
  const std::vector<ResizeTaps> rows = resize_taps(kind, in.height, height);
  const size_t stride = size_t{width} * 3;
  for (uint32_t y = 0; y < height; ++y) {
    for (size_t i = 0; i < stride; ++i) {
      double sum = 0;
      for (size_t k = 0; k < rows[y].at.size(); ++k) sum += rows[y].weights[k] * across.rgb[rows[y].at[k] * stride + i];
      out.rgb[y * stride + i] = to_byte(sum);
    }
  }
  return out;
}

/// The middle; what lies outside is black.
Picture cropped(const Picture& in, uint32_t height, uint32_t width) {
  Picture out{height, width, std::vector<uint8_t>(size_t{height} * width * 3)};
  const int64_t top = (int64_t{in.height} - height) / 2, left = (int64_t{in.width} - width) / 2;
  for (uint32_t y = 0; y < height; ++y) {
    const int64_t from = y + top;
    if (from < 0 || from >= in.height) continue;
    for (uint32_t x = 0; x < width; ++x) {
      const int64_t at = x + left;
      if (at < 0 || at >= in.width) continue;
      std::copy_n(&in.rgb[(static_cast<size_t>(from) * in.width + static_cast<size_t>(at)) * 3], 3,
                  &out.rgb[(size_t{y} * width + x) * 3]);
    }
  }
  return out;
}

}  // namespace

Result<ImagePreparation> load_image_preparation(const EvalModel& model) {
  ImagePreparation how;
  const EncoderSpec& e = model.session->model().ends.encoder;
  how.resize_height = e.image_height;
  how.resize_width = e.image_width;
  NWC_ASSIGN_OR_RETURN(const std::vector<uint8_t> text, load_config(model));
  if (text.empty()) return how;
  size_t replaced = 0;
  NWC_ASSIGN_OR_RETURN(const Json config, parse_python_json(text, kImageConfigName, &replaced));
  if (!config.is_object()) return corrupt(std::string(kImageConfigName) + " must hold an object");
  NWC_TRY(read_preparation(config, &how).with_context(kImageConfigName));
  if (how.center_crop && how.crop_height == 0) {
    how.crop_height = e.image_height;
    how.crop_width = e.image_width;
  }
  return how;
}

Result<std::vector<float>> prepare_picture(const Picture& picture, const ImagePreparation& how,
                                           const ModelRecord& model) {
  Picture p = picture;
  if (how.resize) {
    uint64_t height = how.resize_height, width = how.resize_width;
    if (how.shortest_edge != 0) {
      const uint64_t shorter = std::min(p.height, p.width);
      height = uint64_t{how.shortest_edge} * p.height / shorter;
      width = uint64_t{how.shortest_edge} * p.width / shorter;
    }
    if (height * width > kMaxPixels)
      return limit_error(str_cat("a picture of ", p.width, " x ", p.height, " pixels becomes ", width, " x ", height,
                                 " of them, which are too many"));
    p = resized(p, static_cast<uint32_t>(height), static_cast<uint32_t>(width), how.bicubic);
  }
  if (how.center_crop) p = cropped(p, how.crop_height, how.crop_width);
  const EncoderSpec& e = model.ends.encoder;
  if (p.height != e.image_height || p.width != e.image_width || e.channels != 3)
    return unsupported(str_cat("prepared pictures have ", p.width, " x ", p.height,
                               " pixels of 3 channels, the model takes ", e.image_width, " x ", e.image_height, " of ",
                               e.channels));
  const size_t pixels = size_t{p.height} * p.width;
  std::vector<float> out(3 * pixels);
  for (size_t c = 0; c < 3; ++c) {
    for (size_t i = 0; i < pixels; ++i)
      out[c * pixels + i] = static_cast<float>((p.rgb[i * 3 + c] * how.rescale - how.mean[c]) / how.deviation[c]);
  }
  return out;
}

}  // namespace nwc::cli
