package javax.annotation;

/** Stands in for the annotation of generated code, whose library need not be installed. */
public @interface Generated {
    String[] value();

    String date() default "";

    String comments() default "";
}
