//! Takes queries apart: which metrics they name, by which labels and values, and
//! what an alert compares. Knows no metric, and asks nobody.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::{
    label::{MatchOp, Matchers},
    parser::{self, AggregateExpr, BinaryExpr, Expr, ParenExpr, VectorSelector, token},
};

/// A metric as a query names it.
#[derive(Debug)]
pub struct Use {
    pub metric: String,
    /// Labels that it is chosen or summed by, with the values it is chosen by.
    pub labels: BTreeMap<String, BTreeSet<String>>,
}

pub fn parsed(query: &str) -> Expr {
    parser::parse(query).unwrap_or_else(|error| panic!("{query}: {error}"))
}

/// Every metric that a query names.
pub fn uses(expr: &Expr) -> Vec<Use> {
    let mut found = Vec::new();
    collect(expr, &BTreeSet::new(), &mut found);
    found
}

fn collect(expr: &Expr, by: &BTreeSet<String>, found: &mut Vec<Use>) {
    let with = |labels: Option<&parser::LabelModifier>| {
        let labels = labels.map(|labels| labels.labels().labels.clone());
        by.iter().cloned().chain(labels.into_iter().flatten()).collect::<BTreeSet<_>>()
    };
    match expr {
        Expr::Aggregate(AggregateExpr { expr, modifier, .. }) => {
            collect(expr, &with(modifier.as_ref()), found);
        }
        Expr::Binary(BinaryExpr { lhs, rhs, modifier, .. }) => {
            let by = with(modifier.as_ref().and_then(|modifier| modifier.matching.as_ref()));
            collect(lhs, &by, found);
            collect(rhs, &by, found);
        }
        Expr::Unary(unary) => collect(&unary.expr, by, found),
        Expr::Paren(paren) => collect(&paren.expr, by, found),
        Expr::Subquery(query) => collect(&query.expr, by, found),
        Expr::Call(call) => call.args.args.iter().for_each(|expr| collect(expr, by, found)),
        Expr::VectorSelector(selector) => found.push(used(selector, by)),
        Expr::MatrixSelector(selector) => found.push(used(&selector.vs, by)),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

fn used(selector: &VectorSelector, by: &BTreeSet<String>) -> Use {
    let mut labels: BTreeMap<String, BTreeSet<String>> =
        by.iter().map(|label| (label.clone(), BTreeSet::new())).collect();
    let Matchers { matchers, or_matchers } = &selector.matchers;
    assert!(or_matchers.is_empty(), "{selector:?}");
    for matcher in matchers {
        let values = match matcher.op {
            MatchOp::Equal | MatchOp::NotEqual => vec![matcher.value.as_str()],
            MatchOp::Re(_) | MatchOp::NotRe(_) => matcher.value.split('|').collect(),
        };
        let told = values.into_iter().filter(|value| !["", ".+"].contains(value));
        let values = told.map(str::to_owned);
        labels.entry(matcher.name.clone()).or_default().extend(values);
    }
    let metric = selector.name.clone().unwrap_or_else(|| panic!("{selector:?} has no name"));
    Use { metric, labels }
}

/// Whether the answer is NaN where nothing happens: a share or a quantile of nothing.
pub fn is_nan_when_idle(expr: &Expr) -> bool {
    match expr {
        Expr::Binary(BinaryExpr { op, lhs, rhs, .. }) => {
            let measured = !matches!(rhs.as_ref(), Expr::NumberLiteral(_));
            (op.id() == token::T_DIV && measured) || is_nan_when_idle(lhs) || is_nan_when_idle(rhs)
        }
        Expr::Call(call) => {
            let args = &call.args.args;
            call.func.name == "histogram_quantile" || args.iter().any(|one| is_nan_when_idle(one))
        }
        Expr::Aggregate(aggregate) => is_nan_when_idle(&aggregate.expr),
        Expr::Unary(unary) => is_nan_when_idle(&unary.expr),
        Expr::Paren(paren) => is_nan_when_idle(&paren.expr),
        Expr::Subquery(query) => is_nan_when_idle(&query.expr),
        Expr::VectorSelector(_)
        | Expr::MatrixSelector(_)
        | Expr::NumberLiteral(_)
        | Expr::StringLiteral(_)
        | Expr::Extension(_) => false,
    }
}

/// What a rule looks at: the left sides of its comparisons, the innermost where
/// one guards another; what must be there; or all of it.
pub fn inputs(expr: &Expr) -> Vec<Expr> {
    let inputs = compared(expr);
    if inputs.is_empty() { vec![expr.clone()] } else { inputs }
}

fn compared(expr: &Expr) -> Vec<Expr> {
    match expr {
        Expr::Binary(binary) => {
            let mut inside = compared(&binary.lhs);
            inside.extend(compared(&binary.rhs));
            if inside.is_empty() && binary.op.is_comparison_operator() {
                inside.push(binary.lhs.as_ref().clone());
            }
            inside
        }
        Expr::Paren(paren) => compared(&paren.expr),
        Expr::Aggregate(aggregate) => compared(&aggregate.expr),
        Expr::Call(call) if call.func.name == "absent" => vec![call.args.args[0].as_ref().clone()],
        Expr::Call(_)
        | Expr::Unary(_)
        | Expr::Subquery(_)
        | Expr::VectorSelector(_)
        | Expr::MatrixSelector(_)
        | Expr::NumberLiteral(_)
        | Expr::StringLiteral(_)
        | Expr::Extension(_) => Vec::new(),
    }
}

/// The expression with one thing changed each: a threshold a little higher or
/// lower, one side of an `and` or `or` left out.
pub fn mutants(expr: &Expr) -> Vec<Expr> {
    let inside = |inner: &Expr, outer: &dyn Fn(Box<Expr>) -> Expr| -> Vec<Expr> {
        mutants(inner).into_iter().map(|mutant| outer(Box::new(mutant))).collect()
    };
    match expr {
        Expr::Binary(binary) => {
            let lefts = |lhs| Expr::Binary(BinaryExpr { lhs, ..binary.clone() });
            let rights = |rhs| Expr::Binary(BinaryExpr { rhs, ..binary.clone() });
            let mut changed = Vec::new();
            if let Expr::NumberLiteral(number) = binary.rhs.as_ref()
                && binary.op.is_comparison_operator()
            {
                let near = [1.0, -1.0].map(|sign| beside(number.val, sign));
                changed.extend(near.map(|value| rights(Box::new(Expr::from(value)))));
            } else if binary.op.is_set_operator() {
                changed.extend([&binary.lhs, &binary.rhs].map(|side| side.as_ref().clone()));
            }
            changed.extend(inside(&binary.lhs, &lefts));
            changed.extend(inside(&binary.rhs, &rights));
            changed
        }
        Expr::Paren(paren) => inside(&paren.expr, &|expr| Expr::Paren(ParenExpr { expr })),
        Expr::Aggregate(one) => {
            inside(&one.expr, &|expr| Expr::Aggregate(AggregateExpr { expr, ..one.clone() }))
        }
        Expr::Call(_)
        | Expr::Unary(_)
        | Expr::Subquery(_)
        | Expr::VectorSelector(_)
        | Expr::MatrixSelector(_)
        | Expr::NumberLiteral(_)
        | Expr::StringLiteral(_)
        | Expr::Extension(_) => Vec::new(),
    }
}

/// One more or less of what is counted, a hundredth more or less of the rest.
#[allow(clippy::float_arithmetic, reason = "thresholds are no money")]
fn beside(value: f64, sign: f64) -> f64 {
    let counted = value.fract() == 0.0 && value <= 100.0;
    if counted { value + sign } else { value * (1.0 + sign / 100.0) }
}
