#include "model/adapter/low_rank_svd.h"

#include <algorithm>
#include <limits>

#include <ATen/ATen.h>
#include <Eigen/Dense>

namespace ossature {
namespace {

using Matrix = Eigen::MatrixXd;
using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix to_eigen(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.detach().to(at::kDouble).contiguous();
  return Eigen::Map<const RowMajor>(plain.const_data_ptr<double>(), plain.size(0), plain.size(1));
}

at::Tensor to_tensor(const Matrix& matrix) {
  at::Tensor tensor = at::empty({matrix.rows(), matrix.cols()}, at::kDouble);
  Eigen::Map<RowMajor>(tensor.data_ptr<double>(), matrix.rows(), matrix.cols()) = matrix;
  return tensor;
}

/// Thin QR: Q [n, m] as its reflections, R [m, columns], m = min(n, columns).
class Qr {
 public:
  explicit Qr(const Matrix& matrix) : qr_(matrix), m_(std::min(matrix.rows(), matrix.cols())) {}

  [[nodiscard]] Matrix r() const { return qr_.matrixQR().topRows(m_).triangularView<Eigen::Upper>(); }
  /// Q x, of x [m, k].
  [[nodiscard]] Matrix times(const Matrix& x) const {
    Matrix result = Matrix::Zero(qr_.rows(), x.cols());
    result.topRows(m_) = x;
    result.applyOnTheLeft(qr_.householderQ());
    return result;
  }

 private:
  Eigen::HouseholderQR<Matrix> qr_;
  Eigen::Index m_;
};

/// The core R_B R_A^T, and what rounding may have put into it.
struct Core {
  Matrix values;
  double rounding;
};

Core core_of(const Qr& b, const Qr& a, double scale) {
  const Matrix r_b = b.r(), r_a = a.r();
  const double terms = static_cast<double>(r_b.cols());
  return {scale * (r_b * r_a.transpose()),
          std::numeric_limits<double>::epsilon() * terms * std::abs(scale) * r_b.norm() * r_a.norm()};
}

std::vector<double> cleared(const Eigen::VectorXd& values, double rounding) {
  std::vector<double> sigma(values.begin(), values.end());
  for (double& value : sigma)
    if (value <= rounding) value = 0.0;
  return sigma;
}

}  // namespace

LowRankSvd low_rank_svd(const LowRank& pair) {
  const Qr b(to_eigen(pair.b)), a(to_eigen(pair.a).transpose());
  const Core core = core_of(b, a, pair.scale);
  const Eigen::BDCSVD<Matrix> svd(core.values, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return {to_tensor(b.times(svd.matrixU())), cleared(svd.singularValues(), core.rounding),
          to_tensor(a.times(svd.matrixV()))};
}

std::vector<double> singular_values(const LowRank& pair) {
  const Core core = core_of(Qr(to_eigen(pair.b)), Qr(to_eigen(pair.a).transpose()), pair.scale);
  return cleared(Eigen::BDCSVD<Matrix>(core.values).singularValues(), core.rounding);
}

LowRank truncated(const LowRankSvd& svd, std::int64_t k) {
  const std::int64_t kept = std::min(k, static_cast<std::int64_t>(svd.sigma.size()));
  at::Tensor a = at::zeros({k, svd.v.size(0)}), b = at::zeros({svd.u.size(0), k});
  for (std::int64_t i = 0; i < kept; ++i) {
    const double sigma = svd.sigma[static_cast<std::size_t>(i)];
    if (sigma == 0.0) break;
    a[i].copy_(svd.v.select(1, i));
    b.select(1, i).copy_(svd.u.select(1, i) * sigma);
  }
  return {a, b, 1.0};
}

double inner_product(const LowRank& left, const LowRank& right) {
  // <B A, D C> = <B^T D, A C^T>: r x r products only.
  const Matrix outputs = to_eigen(left.b).transpose() * to_eigen(right.b);
  const Matrix inputs = to_eigen(left.a) * to_eigen(right.a).transpose();
  return left.scale * right.scale * outputs.cwiseProduct(inputs).sum();
}

}  // namespace ossature
