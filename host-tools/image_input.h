// Pictures as an encoder of images takes them: PNG files, resized, cropped and normalized as preprocessor_config.json
// says (of the model's folder, or kept in its .nwc file).
#pragma once

#include "host-tools/model_input.h"

namespace nwc::cli {

/// Where transformers keeps what happens to a picture, beside the weights.
inline constexpr const char* kImageConfigName = "preprocessor_config.json";

/// What happens to a picture, in this order. The defaults are CLIP's mean and deviation and a plain resize.
struct ImagePreparation {
  bool resize = true;
  uint32_t shortest_edge = 0;  ///< of the resized picture, its shape kept; 0: height x width
  uint32_t resize_height = 0, resize_width = 0;
  bool bicubic = true;  ///< else bilinear; both antialiased, in 8 bits, as Pillow does
  bool center_crop = false;
  uint32_t crop_height = 0, crop_width = 0;
  double rescale = 1.0 / 255;
  std::vector<double> mean{0.48145466, 0.4578275, 0.40821073};
  std::vector<double> deviation{0.26862954, 0.26130258, 0.27577711};
};

/// errors: kUnsupported (a filter that is not bilinear or bicubic, an input of another size than the model's),
///         kCorrupt
Result<ImagePreparation> load_image_preparation(const EvalModel& model);

/// RGB, 8 bits, [height][width][3].
struct Picture {
  uint32_t height = 0, width = 0;
  std::vector<uint8_t> rgb;
};
inline constexpr uint64_t kMaxPixels = 1u << 28;
/// errors: kIo, kCorrupt (no PNG), kLimit (more than kMaxPixels), kUnsupported (a build without libpng); all name the
/// file
Result<Picture> read_png(const std::string& path);

/// [3][height][width] as the model takes it. errors: kUnsupported (the result has another size than the model's)
Result<std::vector<float>> prepare_picture(const Picture& picture, const ImagePreparation& how,
                                           const ModelRecord& model);

}  // namespace nwc::cli
