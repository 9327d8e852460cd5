//! What is known of the columns of rows that cross a boundary, beside their order: which have one value
//! in all rows, and which are equal to each other.
//!
//! DataFusion leaves sort keys out that such knowledge makes needless, and a window over the sorted
//! rows then asks its input for it. DataFusion writes plans and not properties, so it travels by itself.

use crate::error::{Error, Result};
use arrow::datatypes::Schema;
use datafusion::physical_expr::equivalence::ConstExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{AcrossPartitions, EquivalenceProperties, PhysicalExpr};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Columns by their index. Expressions that are no columns are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Agreement {
    /// One value in all rows of all partitions.
    constant: Vec<usize>,
    /// Groups of columns that are equal to each other in each row.
    equal: Vec<Vec<usize>>,
}

impl Agreement {
    pub(super) fn of(properties: &EquivalenceProperties) -> Self {
        let constants = properties.constants().into_iter();
        // What is constant in each partition by itself is not so in those of several tasks.
        let constants =
            constants.filter(|known| known.across_partitions != AcrossPartitions::Heterogeneous);
        let groups = properties.eq_group().iter();
        let groups = groups.map(|class| class.iter().filter_map(index_of).collect());
        Self {
            constant: constants
                .filter_map(|known| index_of(&known.expr))
                .collect(),
            equal: groups
                .filter(|group: &Vec<usize>| group.len() > 1)
                .collect(),
        }
    }

    /// `properties` with this in them; `Corrupt` for columns that there are not.
    pub(super) fn added_to(
        &self,
        mut properties: EquivalenceProperties,
    ) -> Result<EquivalenceProperties> {
        let schema = Arc::clone(properties.schema());
        let constants = self.constant.iter().map(|index| {
            let across = AcrossPartitions::Uniform(None);
            Ok(ConstExpr::new(column(&schema, *index)?, across))
        });
        properties.add_constants(constants.collect::<Result<Vec<_>>>()?)?;
        for pair in self.equal.iter().flat_map(|group| group.windows(2)) {
            let (left, right) = (column(&schema, pair[0])?, column(&schema, pair[1])?);
            properties.add_equal_conditions(left, right)?;
        }
        Ok(properties)
    }
}

fn index_of(expression: &Arc<dyn PhysicalExpr>) -> Option<usize> {
    expression.downcast_ref::<Column>().map(Column::index)
}

fn column(schema: &Schema, index: usize) -> Result<Arc<dyn PhysicalExpr>> {
    let Some(field) = schema.fields().get(index) else {
        let reason = format!(
            "a read of {} columns knows of column {index}",
            schema.fields().len()
        );
        return Err(Error::corrupt("a serialised plan", reason));
    };
    Ok(Arc::new(Column::new(field.name(), index)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field};

    #[test]
    fn columns_stay_constant_and_equal_and_unknown_ones_are_refused() {
        let fields = ["a", "b", "c", "d"].map(|name| Field::new(name, DataType::Int64, true));
        let schema = Arc::new(Schema::new(fields.to_vec()));
        let of = |index: usize| column(&schema, index).unwrap();
        let mut known = EquivalenceProperties::new(Arc::clone(&schema));
        let per_partition = ConstExpr::new(of(3), AcrossPartitions::Heterogeneous);
        let everywhere = ConstExpr::new(of(0), AcrossPartitions::Uniform(None));
        known.add_constants([per_partition, everywhere]).unwrap();
        known.add_equal_conditions(of(2), of(1)).unwrap();

        let agreement = Agreement::of(&known);
        let nothing = || EquivalenceProperties::new(Arc::clone(&schema));
        let again = agreement.added_to(nothing()).unwrap();
        assert_eq!(Agreement::of(&again), agreement);
        assert!(again.is_expr_constant(&of(0)).is_some());
        assert!(again.is_expr_constant(&of(3)).is_none());
        assert!(again.eq_group().exprs_equal(&of(1), &of(2)));

        let unknown = Agreement {
            constant: vec![4],
            equal: vec![],
        };
        let error = unknown.added_to(nothing()).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Corrupt);
    }
}
